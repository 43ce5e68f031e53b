"""What was equal in a study and what was not, in words: from the settings and measurements of the runs alone."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from ritornello.studies.intervals import COVERED
from ritornello.studies.results import BEGINNING_TOKENS, Result
from ritornello.studies.summary import GROWING, STATE_AFTER_TOKENS, UNCHANGED, Row

SEEDS = "± is the standard deviation over seeds"
PAPER = {"N": 32_768, "Q": 1_024, "short scale": 1_024, "width": 1_024, "layers": 24}
"""of arXiv 2411.08307, section VI"""
OWN_PROCESS = (
    "Peak memory is that of training and its validations beyond the idle process, counted alike in every row; an "
    "unlimited memory counts as far as the pieces that were read had filled it"
)
DSMR_READING = (
    f"{SEEDS}; of nats/token behind another row it is the standard error over pieces, seeds and pieces paired.",
    f"{OWN_PROCESS}. The state is one lane's after {STATE_AFTER_TOKENS:,} tokens, in the precision of training.",
)


def dsmr_conditions(rows: list[Row]) -> str:
    """What held for the rows of arXiv 2602.19816."""
    layers = rows[0].schedule.layers
    budgets = _distinct(row.schedule.budget_tokens for row in rows if row.schedule.budget_tokens is not None)

    def size(run: Result) -> str:
        model = run["settings"]["recipe_settings"]["model"]
        return (
            f"{run['parameters'] / 1e6:.2f} M parameters in {layers} layers of width {model['width']}, "
            f"{model['heads']} heads, segments of {model['segment_tokens']:,} tokens"
        )

    return _list_of(
        _data(rows),
        f"{_held(rows, 'size', size)}.",
        f"{_training(rows)}; for each seed the same weights at the start and the same order of pieces.",
        _reading(rows),
        *([f"Budget of the limited rows: {_span(budgets)} tokens."] if budgets else []),
        *_growing(rows),
        _seeds(rows),
        _machines(rows),
        f"Not equal to the paper: {'' if _on_maestro(rows) else 'its data are MAESTRO, and '}its model, training and "
        "GPU are its own. Ratios compare, figures do not.",
        *DSMR_READING,
    )


def perceivers_conditions(rows: list[Row]) -> str:
    """What held for the rows of arXiv 2411.08307, and for DSMR beside them."""
    run = rows[0].runs[0]
    streamed = [row for row in rows if _model(row)["family"] == "dsmr"]
    cropped = [row for row in rows if row not in streamed]
    one_look = [row for row in cropped if len(_model(row)["scales"]) == 1]
    order = "; for each seed the same order of pieces among the Perceivers" if len(cropped) > 1 else ""
    return _list_of(
        _data(rows),
        _size(rows, cropped),
        *_weights_at_the_start(one_look),
        f"{_training(rows)}{order}.",
        _reading(rows),
        f"Equal, beginnings: the first {BEGINNING_TOKENS:,} tokens of all {len(run['beginnings'])} validation pieces, "
        f"performances of {len({piece['composition'] for piece in run['beginnings']})} compositions.",
        *_predicted(streamed, cropped),
        _seeds(rows),
        _machines(rows),
        *_unlike_perceivers_paper(rows, cropped),
        "The paper gives no likelihoods: its table compares generated sets by their features, as 'study table "
        "perceivers --sets' does.",
        f"{SEEDS}. [low, high] is the interval of {COVERED:.0%} over compositions, drawn with all their performances; "
        "in a difference seeds and pieces are paired.",
        f"{OWN_PROCESS}. A session is what playing one piece keeps in memory; time per played token is processor time "
        f"on one thread, from token {run['playing']['after_tokens']:,} on, windows' moves included.",
    )


def choices_conditions(rows: list[Row]) -> str:
    """What held for the rows of the training and recall studies."""
    settings = _settings(rows)
    recipe = settings["recipe_settings"]
    tokens = _distinct(run["training"]["tokens"] for row in rows for run in row.runs)
    return _list_of(
        _data(rows),
        *_unchanged(rows),
        f"Equal, training: {_span(tokens)} tokens, in {settings['precision']}; steps of more tokens are fewer. "
        f"The validations on the way were of {recipe['validation_pieces']} pieces.",
        _reading(rows),
        f"Figures are {'legal' if settings['legal'] else 'free'} nats/token, of all rows.",
        _seeds(rows),
        _machines(rows),
        f"{SEEDS}. [low, high] is the interval of {COVERED:.0%} over compositions, drawn with all their performances; "
        "in a difference seeds and pieces are paired. What other seeds would give is said by the column beside it.",
    )


def _size(rows: list[Row], cropped: list[Row]) -> str:
    runs = [run for row in rows for run in row.runs]
    sizes, widths, heads = (
        _span(_distinct(values))
        for values in (
            (run["parameters"] for run in runs),
            (run["model"]["width"] for run in runs),
            (run["model"]["heads"] for run in runs),
        )
    )
    looks = [f"{row.name} {len(_model(row)['scales'])} + {_model(row)['layers']}" for row in cropped]
    weights = "A look at the context has the weights of a layer of latents; looks and layers:"
    return f"Equal, size: {sizes} parameters of width {widths}, {heads} heads." + (
        f" {weights} {', '.join(looks)}." if looks else ""
    )


def _weights_at_the_start(one_look: list[Row]) -> list[str]:
    """What the first experiment of arXiv 2411.08307 holds equal, where both of its rows are there."""
    if len(one_look) < 2:
        return []
    model = _model(one_look[0])
    return [
        f"Equal, {' and '.join(row.name for row in one_look)}: the same model with the same weights at the start; "
        f"N = {model['context_tokens']:,}, Q = {model['latents']:,}, stride {model['stride_tokens']:,}."
    ]


def _predicted(streamed: list[Row], cropped: list[Row]) -> list[str]:
    """How the two families read, where both are there."""
    if not streamed or not cropped:
        return []
    run = streamed[0].runs[0]
    share = run["training"]["tokens"] / run["settings"]["corpus_tokens"]["train"]
    groups = run.get("recipe", {}).get("groups", 1)
    return [
        "Not equal: which tokens training predicts, for that is the first experiment. DSMR reads pieces from start to "
        f"end, {share:.0%} of an epoch, {_in_turn(groups)}and carries its memory; a Perceiver reads crops, one of a "
        "piece in an epoch, so that as many predicted tokens come from many more pieces, each with its context read "
        "anew."
    ]


def _unlike_perceivers_paper(rows: list[Row], cropped: list[Row]) -> list[str]:
    """What arXiv 2411.08307 (section VI-A) had otherwise, the sizes read from the row with the most looks."""
    unlike = [] if _on_maestro(rows) else ["its data are MAESTRO"]
    if cropped:
        model = max((_model(row) for row in cropped), key=lambda model: len(model["scales"]))
        ours = {"N": model["context_tokens"], "Q": model["latents"], "width": model["width"], "layers": model["layers"]}
        short = [scale for scale in model["scales"] if scale is not None]
        ours |= {"short scale": min(short)} if short else {}
        unlike += [f"{name} {PAPER[name]:,} (here {value:,})" for name, value in ours.items() if value != PAPER[name]]
    return [f"Not equal to the paper: {', '.join(unlike)}."] if unlike else []


def _unchanged(rows: list[Row]) -> list[str]:
    """In what the row that changes nothing differs from the recipe that the study was asked for."""
    unchanged = next((row for row in rows if row.name == UNCHANGED), None)
    if unchanged is None:
        return []
    run = unchanged.runs[0]
    asked, had = ({**recipe, **recipe["model"]} for recipe in (run["settings"]["recipe_settings"], run["recipe"]))
    other = [f"{name} = {had[name]}" for name in asked.keys() & had.keys() - {"model"} if asked[name] != had[name]]
    words = f" with {', '.join(sorted(other))}" if other else ""
    return [f"Unchanged: the recipe {had['name']}{words}. A row says what it changes, and changes nothing else."]


def _in_turn(groups: int) -> str:
    return f"{groups} groups of lanes in turn, " if groups > 1 else ""


def _growing(rows: list[Row]) -> list[str]:
    """What the rows' names do not say of those whose memories grow; not one of the paper's."""
    grown = [row for row in rows if row.name.endswith(f", {GROWING}")]
    shares = _distinct(f"{run['recipe']['growing']:.0%}" for row in grown for run in row.runs)
    if not shares:
        return []
    return [
        f"Growing, ours and not the paper's: in the first {shares[0]} of training no layer sees more of its memory "
        "than a segment, then two, four and so on; after it all."
    ]


def _settings(rows: list[Row]) -> dict[str, Any]:
    settings: dict[str, Any] = rows[0].runs[0]["settings"]
    return settings


def _model(row: Row) -> dict[str, Any]:
    model: dict[str, Any] = row.runs[0]["model"]
    return model


def _on_maestro(rows: list[Row]) -> bool:
    """Whether every run read the papers' data, by the name that 'ritornello data maestro' gives them."""
    return all(run["settings"]["corpus"].startswith("MAESTRO") for row in rows for run in row.runs)


def _held(rows: list[Row], what: str, words: Callable[[Result], str]) -> str:
    """That something was equal, or all that it was."""
    values = _distinct(words(run) for row in rows for run in row.runs)
    return f"{'Equal' if len(values) == 1 else 'Not equal'}, {what}: {'; '.join(values)}"


def _data(rows: list[Row]) -> str:
    def words(run: Result) -> str:
        return f"{run['settings']['corpus']}; {run['settings']['corpus_tokens']['train']:,} tokens to train on"

    return f"{_held(rows, 'data', words)}."


def _training(rows: list[Row]) -> str:
    tokens = _span(_distinct(run["training"]["tokens"] for row in rows for run in row.runs))

    def words(run: Result) -> str:
        settings = run["settings"]
        kind = "under the grammar" if settings["legal"] else "over all events, without the grammar"
        lanes, groups = settings["recipe_settings"]["lanes"], settings["recipe_settings"].get("groups", 1)
        read = f"{lanes} lanes" if groups == 1 else f"{groups} groups of {lanes} lanes that take turns"
        most = settings["recipe_settings"].get("piece_tokens")
        whole = f" of the first {most:,} of each piece" if most else ""
        return f"{settings['steps']:,} steps in {read}, {tokens} tokens{whole}, in {settings['precision']}, {kind}"

    return _held(rows, "training", words)


def _reading(rows: list[Row]) -> str:
    def words(run: Result) -> str:
        read = run["evaluation"]
        return f"{read['pieces']} whole validation pieces ({read['tokens']:,} tokens)"

    return f"{_held(rows, 'figures', words)}, read from an empty state at the checkpoint that validated best."


def _seeds(rows: list[Row]) -> str:
    all_seeds = _distinct(seed for row in rows for seed in row.seeds)
    fewer = [f"{row.name} only {_list(row.seeds)}" for row in rows if row.seeds != all_seeds]
    return f"Seeds: {'; '.join([_list(all_seeds), *fewer])}."


def _machines(rows: list[Row]) -> str:
    machines = _distinct(
        f"{run['machine']['device']}, threads: {run['machine']['threads']}, torch {run['machine']['torch']}"
        for row in rows
        for run in row.runs
    )
    speed = "tokens/s and peak memory also show what else ran there ('ritornello bench train' measures them alone)"
    return f"{'Machine' if len(machines) == 1 else 'Not equal, machines'}: {'; '.join(machines)}; {speed}."


def _list_of(*lines: str) -> str:
    return "\n".join(f"- {line}" for line in lines)


def _distinct(values: Any) -> list[Any]:
    return sorted(set(values))


def _list(values: list[int]) -> str:
    return ", ".join(map(str, values))


def _span(values: list[int]) -> str:
    return f"{values[0]:,}" if len(values) == 1 else f"{values[0]:,} to {values[-1]:,}"
