"""The study of arXiv 2411.08307: what each step from Perceiver AR to PerceiverS is worth, and DSMR beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ritornello.charts import COLOURS, new_figure, save
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.study import study_texts
from ritornello.models.config import DSMRConfig, PerceiverConfig
from ritornello.reports.table import markdown_table
from ritornello.studies.declared.dsmr import schedules
from ritornello.studies.record import BEGINNING_TOKENS, BLOCK_TOKENS
from ritornello.studies.report import (
    INTERVALS,
    PARAMETERS,
    PEAK_MEMORY,
    ROW,
    SEEDS_DONE,
    Column,
    Interval,
    Row,
    cell,
    name_heights,
    on_maestro,
    position_tables,
    ratio,
    row_named,
    span,
)
from ritornello.studies.study import Recipes, Study
from ritornello.training.recipes import RECIPES, Recipe, recipe_named

BASELINE, SEGMENTED, MULTI_SCALE, TWO_SCALE = ORDER = (
    *("Perceiver AR", "effective segmentation"),
    *("multi-scale", "DSMR two-scale"),
)
COLOUR_OF = dict(zip(ORDER, COLOURS))
PAPER = {"N": 32_768, "Q": 1_024, "short scale": 1_024, "width": 1_024, "layers": 24}
"""section VI"""
SHOWN_BLOCKS = 32  # of whole pieces; fewer and fewer pieces are longer


def steps(recipe: Recipe, budget_tokens: int) -> Recipes:
    """The two experiments (section VI-B), and DSMR. The recipe says what rows of one look keep."""
    if not isinstance(recipe.model, PerceiverConfig):
        raise RitornelloError(f"the recipe {recipe.name} is of a model without latents; name one of PerceiverS")
    multi = replace(recipe, segmentation="random_end")
    layers = recipe.model.layers + (len(recipe.model.scales) - 1 if recipe.equal == "parameters" else 0)
    one = replace(multi, model=replace(recipe.model, scales=(None,), layers=layers))
    two_scale = schedules(of_dsmr(recipe), budget_tokens)["two-scale"]
    return dict(zip(ORDER, (replace(one, segmentation="random_start"), one, multi, two_scale)))


def of_dsmr(recipe: Recipe) -> Recipe:
    """DSMR's recipe of the size of one of PerceiverS: its namesake with as many times its lanes, else one made from it.

    In that a look is a layer more, which has as many weights, a segment is as long as the latents, and the sum of the
    horizons is the context.
    """
    model, name = recipe.model, recipe.name.removeprefix("perceivers_")
    if name in RECIPES or not isinstance(model, PerceiverConfig):
        twin = recipe_named(name)
        lanes = max(1, twin.lanes * recipe.lanes // recipe_named(recipe.name).lanes)
        return replace(twin, lanes=lanes, piece_tokens=recipe.piece_tokens, legal=recipe.legal)
    layers = model.layers + len(model.scales)
    text = study_texts(layers=layers, budget_tokens=model.context_tokens)["two-scale"]
    same = ("width", "heads", "mlp_width", "dropout", "qk_bias", "motif_notes")
    sizes = {name: getattr(model, name) for name in same}
    schedule = HorizonSchedule.parse(text, layers=layers)
    return replace(recipe, model=DSMRConfig(schedule, segment_tokens=model.latents, **sizes))


def look(row: Row) -> str:
    """How a row reads, and how far it looks."""
    model = row.first.model
    if not isinstance(model, PerceiverConfig):
        return f"whole pieces; horizons {model.schedule}"
    looks = " then ".join(f"{scale or model.context_tokens:,}" for scale in model.scales)
    return f"{row.first.recipe.segmentation}; looks back {looks}, {model.layers} layers"


def session_bytes(row: Row) -> int | None:
    """What playing one piece keeps in memory."""
    return row.first.playing.session_bytes if row.first.playing else None


COLUMNS = (
    ROW,
    SEEDS_DONE,
    Column("", "model", lambda row, _: {"family": row.first.model.family, **row.first.model.to_json()}),
    Column("", "segmentation", lambda row, _: row.first.recipe.segmentation if row.first.model.crops else None),
    Column("perplexity / baseline", "ratios.perplexity", ratio(lambda row: row.perplexity.mean), ".3f"),
    Column("tokens/s / baseline", "ratios.tokens_per_s", ratio(lambda row: row.tokens_per_s), ".2f"),
    Column("peak memory / baseline", "ratios.peak_bytes", ratio(lambda row: row.peak_bytes), ".2f"),
    Column("session / baseline", "ratios.session_bytes", ratio(session_bytes), ".2f"),
    Column("time per played token / baseline", "ratios.played_token_s", ratio(lambda row: row.played_token_s), ".2f"),
    Column("perplexity", "perplexity", lambda row, _: row.perplexity, ".3f"),
    Column("", "tokens_per_s", lambda row, _: row.tokens_per_s),
    Column("", "peak_bytes", lambda row, _: row.peak_bytes),
    Column("", "nats_per_token.by_piece", lambda row, _: row.interval("by_piece")),
    Column("", "nats_per_token.beginnings", lambda row, _: row.interval("beginnings")),
    Column(
        "nats/token behind baseline",
        "behind_baseline.by_piece",
        lambda row, base: row.interval_behind("by_piece", base),
        "+.4f",
    ),
    Column("", "behind_baseline.beginnings", lambda row, base: row.interval_behind("beginnings", base)),
    Column("", "beginnings_behind_baseline_by_seed", lambda row, base: row.behind_by_seed("beginnings", base)),
    Column("session", "session_bytes", lambda row, _: session_bytes(row), lambda size: f"{size / 1e6:.2f} MB"),
    Column("time per played token", "played_token_s", lambda row, _: row.played_token_s, lambda s: f"{s * 1e3:.2f} ms"),
    PARAMETERS,
    Column("segmentation and sight", "look", lambda row, _: look(row)),
)


def notes(rows: list[Row]) -> list[str]:
    """What was equal, how the families read, and what the paper has otherwise."""
    models = {row.name: row.first.model for row in rows}
    cropped = {name: model for name, model in models.items() if isinstance(model, PerceiverConfig)}
    looks = [f"{name} {len(model.scales)} + {model.layers}" for name, model in cropped.items()]
    streamed = [row for row in rows if isinstance(row.first.model, DSMRConfig)]
    beginnings = rows[0].first.beginnings
    playing = rows[0].first.playing
    lines = [f"Size: {span(run.parameters for row in rows for run in row.runs)} parameters."]
    if cropped:
        lines[0] += " A look at the context has the weights of a layer of latents; looks and layers: "
        lines[0] += f"{', '.join(looks)}."
        largest = max(cropped.values(), key=lambda model: len(model.scales))
        here = {"N": largest.context_tokens, "Q": largest.latents, "width": largest.width, "layers": largest.layers}
        here |= {"short scale": min(scales)} if (scales := [s for s in largest.scales if s is not None]) else {}
        unlike = [f"{name} {PAPER[name]:,} (here {value:,})" for name, value in here.items() if value != PAPER[name]]
    else:
        unlike = []
    if {BASELINE, SEGMENTED} <= cropped.keys():
        lines.append(f"{BASELINE} and {SEGMENTED} are the same model with the same weights at the start.")
    lines.append(
        f"Beginnings are the first {BEGINNING_TOKENS:,} tokens of all {len(beginnings)} validation pieces, performances "
        f"of {len({piece.composition for piece in beginnings})} compositions."
    )
    if streamed and cropped:
        run = streamed[0].first
        share = run.training.tokens / run.settings.corpus_tokens["train"]
        lines.append(
            f"Not equal: which tokens training predicts, for that is the first experiment. DSMR reads pieces from start "
            f"to end, {share:.0%} of an epoch, in {run.recipe.groups} groups of lanes, and carries its memory; a "
            "Perceiver reads crops, one of a piece in an epoch and for each seed in the same order, so that as many "
            "predicted tokens come from many more pieces, each with its context read anew."
        )
    unlike = [*([] if on_maestro(rows) else ["its data are MAESTRO"]), *unlike]
    return [
        *lines,
        *([f"Not equal to the paper: {', '.join(unlike)}."] if unlike else []),
        "The paper gives no likelihoods: its table compares generated sets by their features, as 'study table "
        "perceivers --sets' does.",
        INTERVALS,
        f"{PEAK_MEMORY} A session is what playing one piece keeps in memory; time per played token is processor time on "
        f"one thread, from token {playing.after_tokens if playing else 0:,} on, windows' moves included.",
    ]


def sections(rows: list[Row], baseline: Row | None) -> list[str]:
    """Beginnings, which the first experiment is about, and positions."""
    lines = [
        [
            row.name,
            cell(row.interval_behind("beginnings", baseline), "+.4f"),
            cell(row.behind_by_seed("beginnings", baseline), "+.4f"),
            cell(row.interval("beginnings"), ".4f"),
        ]
        for row in rows
    ]
    return [
        "## Beginnings",
        f"Nats/token of the first {BEGINNING_TOKENS:,} tokens of every validation piece.",
        markdown_table(("row", f"nats/token behind {BASELINE}", "the same by seed", "nats/token"), lines),
        *verdict(baseline, row_named(rows, SEGMENTED)),
        "## By position",
        *position_tables(rows),
    ]


def verdict(baseline: Row | None, segmented: Row | None) -> list[str]:
    """The first experiment in one sentence."""
    more = baseline and segmented and baseline.interval("beginnings", segmented)
    if not more:
        return []
    sure = "excludes" if more.low > 0 or more.high < 0 else "includes"
    word = "behind" if more.mean > 0 else "ahead of"
    return [
        f"{BASELINE} is {abs(more.mean):.4f} nats/token {word} the same model with {SEGMENTED} there; "
        f"the interval, {more.limits('+.4f')}, {sure} zero."
    ]


def draw(rows: list[Row], baseline: Row | None, path: Path) -> None:
    """Likelihood by position, what it is beside the baseline's, beginnings, and validation during training."""
    figure = new_figure(13, 8.5)
    ((position, beginnings), (more, training)) = figure.subplots(2, 2, width_ratios=(3, 2))
    for height, row in enumerate(reversed(rows)):
        colour = COLOUR_OF[row.name]
        along(position, row.by_block("by_piece"), colour, label=row.name)
        if baseline is not None and row is not baseline:
            blocks = along(more, row.by_block("by_piece", baseline), colour)
            at = [BLOCK_TOKENS * i for i in range(len(blocks))]
            more.fill_between(at, [b.low for b in blocks], [b.high for b in blocks], color=colour, alpha=0.15, lw=0)
        # Against the baseline where it is there, for pieces differ by more than models do.
        nats = row.interval("beginnings", baseline) if row is not baseline else Interval(0, 0, 0)
        if nats is not None:
            beginnings.plot([nats.low, nats.high], [height, height], "-", color=colour, lw=3, alpha=0.4)
            beginnings.plot([nats.mean], [height], "o", color=colour)
        for run in row.runs:  # losses of training are of other tokens in each row and cannot be compared
            read = [(line.tokens / 1e6, line.validation) for line in run.training.log if line.validation is not None]
            training.plot(*zip(*read), "o-", ms=3, lw=1, color=colour)
    position.set(title="Whole pieces, by position", xlabel="from token", ylabel="nats/token")
    more.axhline(0, color=COLOUR_OF[BASELINE], lw=1)
    more.set(title=f"The same, beside {BASELINE}", xlabel="from token", ylabel=f"nats/token more than {BASELINE}")
    name_heights(beginnings, rows)
    beginnings.locator_params(axis="x", nbins=5)
    label = "nats/token" if baseline is None else f"nats/token more than {BASELINE}, with intervals"
    beginnings.set(title=f"First {BEGINNING_TOKENS:,} tokens of all validation pieces", xlabel=label)
    training.set(title="Whole validation pieces while training", xlabel="million predicted tokens", ylabel="nats/token")
    figure.legend(*position.get_legend_handles_labels(), loc="outside lower center", ncols=len(rows), reverse=True)
    save(figure, path)


def along(axes: Any, blocks: list[Interval], colour: str, label: str = "") -> list[Interval]:
    """Draws the means of the first blocks, and gives those back."""
    shown = blocks[:SHOWN_BLOCKS]
    at = [BLOCK_TOKENS * i for i in range(len(shown))]
    axes.plot(at, [nats.mean for nats in shown], "o-", ms=3, lw=1.2, color=colour, label=label)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    return shown


STUDIES = (
    Study(
        name="perceivers",
        recipe="perceivers_study",
        rows=steps,
        horizons_of=of_dsmr,
        baseline=BASELINE,
        order=lambda row: ORDER.index(row.name),
        heading="Perplexity, memory and speed",
        introduction=f"Ratios to the baseline, {BASELINE}, first.",
        columns=COLUMNS,
        notes=notes,
        sections=sections,
        draw=draw,
    ),
)
