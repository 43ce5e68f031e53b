"""What was equal in a study and what was not, in words: from the settings and measurements of the runs alone."""

from __future__ import annotations

from typing import Any

from ritornello.studies.intervals import COVERED
from ritornello.studies.results import BEGINNING_TOKENS, Result
from ritornello.studies.summary import GROWING, STATE_AFTER_TOKENS, Row

SEEDS = "± is the standard deviation over seeds"
OWN_PROCESS = (
    "Peak memory is that of training and its validations beyond the idle process, counted alike in every row; an "
    "unlimited memory counts as far as the pieces that were read had filled it"
)
UNCHANGED_IS = {
    "training": "in four groups of twice its lanes, of half their length",
    "recall": "without biases of queries and keys and without motif memory",
}
PERCEIVERS_PAPER = {
    "N": ("context_tokens", 32_768),
    "Q": ("latents", 1024),
    "width": ("width", 1024),
    "layers": ("layers", 24),
}
DSMR_READING = (
    f"{SEEDS}; of nats/token behind another row it is the standard error over pieces, seeds and pieces paired.",
    f"{OWN_PROCESS}. The state is one lane's after {STATE_AFTER_TOKENS:,} tokens, in the precision of training.",
)


def dsmr_conditions(rows: list[Row]) -> str:
    """What held for the rows of arXiv 2602.19816."""
    run, settings = rows[0].runs[0], _settings(rows)
    model = settings["recipe_settings"]["model"]
    budgets = _distinct(row.schedule.budget_tokens for row in rows if row.schedule.budget_tokens is not None)
    return _list_of(
        _data(settings),
        f"Equal, size: {run['parameters'] / 1e6:.2f} M parameters in {rows[0].schedule.layers} layers of width "
        f"{model['width']}, {model['heads']} heads, segments of {model['segment_tokens']:,} tokens.",
        f"{_training(rows)}; for each seed the same weights at the start and the same order of pieces.",
        _reading(run),
        *([f"Budget of the limited rows: {_span(budgets)} tokens."] if budgets else []),
        *_growing(rows),
        _seeds(rows),
        _machines(rows),
        "Not equal to the paper: its data are MAESTRO, and its model, training and GPU are its own. Ratios compare, "
        "figures do not.",
        *DSMR_READING,
    )


def perceivers_conditions(rows: list[Row]) -> str:
    """What held for the rows of arXiv 2411.08307, and for DSMR beside them."""
    run, settings = rows[0].runs[0], _settings(rows)
    model = settings["recipe_settings"]["model"]
    sizes = _distinct(run["parameters"] for row in rows for run in row.runs)
    layers = "as many layers" if settings["recipe_settings"].get("equal") == "layers" else "one layer less"
    other = (f"its {name} {value:,}" for name, (size, value) in PERCEIVERS_PAPER.items() if model.get(size) != value)
    played, share = run["playing"], run["training"]["tokens"] / settings["corpus_tokens"]["train"]
    # A Perceiver's crops have no groups, nor had runs that say nothing of their recipe.
    groups = max(run.get("recipe", {}).get("groups", 1) for row in rows for run in row.runs)
    return _list_of(
        _data(settings),
        f"Equal, size: {_span(sizes)} parameters of width {model['width']}, {model['heads']} heads. A look at the "
        f"context has the weights of a layer of latents: multi-scale has one look more and {layers}.",
        f"Equal, the two rows of one look: the same model with the same weights at the start; N = "
        f"{model['context_tokens']:,}, Q = {model['latents']:,}, stride {model['stride_tokens']:,}.",
        f"{_training(rows)}; for each seed the same order of pieces among the Perceivers.",
        _reading(run),
        f"Equal, beginnings: the first {BEGINNING_TOKENS:,} tokens of all {len(run['beginnings'])} validation pieces, "
        f"performances of {len({piece['composition'] for piece in run['beginnings']})} compositions.",
        "Not equal: which tokens training predicts, for that is the first experiment. DSMR reads pieces from start to "
        f"end, {share:.0%} of an epoch, {_in_turn(groups)}and carries its memory; a Perceiver reads crops, one of a "
        "piece in an epoch, so that as many predicted tokens come from many more pieces, each with its context read "
        "anew.",
        _seeds(rows),
        _machines(rows),
        f"Not equal to the paper: {', '.join(['its data are MAESTRO', *other])}. It gives no likelihoods: its table "
        "compares generated sets by their features.",
        f"{SEEDS}. [low, high] is the interval of {COVERED:.0%} over compositions, drawn with all their performances; "
        "in a difference seeds and pieces are paired.",
        f"{OWN_PROCESS}. A session is what playing one piece keeps in memory; time per played token is processor time "
        f"on one thread, from token {played['after_tokens']:,} on, windows' moves included.",
    )


def choices_conditions(rows: list[Row]) -> str:
    """What held for the rows of the training and recall studies."""
    run, settings = rows[0].runs[0], _settings(rows)
    recipe = settings["recipe_settings"]
    tokens = _distinct(run["training"]["tokens"] for row in rows for run in row.runs)
    return _list_of(
        _data(settings),
        f"Unchanged: the recipe {recipe['name']} {UNCHANGED_IS[settings['study']]}. A row says what it changes, and "
        "changes nothing else.",
        f"Equal, training: {_span(tokens)} tokens, in {settings['precision']}; steps of more tokens are fewer. "
        f"The validations on the way were of {recipe['validation_pieces']} pieces.",
        _reading(run),
        f"Figures are {'legal' if settings['legal'] else 'free'} nats/token, of all rows.",
        _seeds(rows),
        _machines(rows),
        f"{SEEDS}. [low, high] is the interval of {COVERED:.0%} over compositions, drawn with all their performances; "
        "in a difference seeds and pieces are paired. What other seeds would give is said by the column beside it.",
    )


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


def _data(settings: dict[str, Any]) -> str:
    trained = settings["corpus_tokens"]["train"]
    return f"Equal for all rows, data: {settings['corpus']}; {trained:,} tokens to train on."


def _training(rows: list[Row]) -> str:
    settings = _settings(rows)
    tokens = _distinct(run["training"]["tokens"] for row in rows for run in row.runs)
    kind = "under the grammar" if settings["legal"] else "over all events, without the grammar"
    lanes, groups = settings["recipe_settings"]["lanes"], settings["recipe_settings"].get("groups", 1)
    read = f"{lanes} lanes" if groups == 1 else f"{groups} groups of {lanes} lanes that take turns"
    most = settings["recipe_settings"].get("piece_tokens")
    whole = f" of the first {most:,} of each piece" if most else ""
    return (
        f"Equal, training: {settings['steps']:,} steps in {read}, {_span(tokens)} tokens{whole}, in "
        f"{settings['precision']}, {kind}"
    )


def _reading(run: Result) -> str:
    read = run["evaluation"]
    return (
        f"Equal, figures: {read['pieces']} whole validation pieces ({read['tokens']:,} tokens), read from an empty "
        "state at the checkpoint that validated best."
    )


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
