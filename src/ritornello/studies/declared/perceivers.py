"""The study of arXiv 2411.08307: what each step from Perceiver AR to PerceiverS is worth, and DSMR beside them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from ritornello.charts import COLOURS, in_house_look, new_figure, save
from ritornello.errors import RitornelloError, counted
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.text import study_texts
from ritornello.models.config import DSMRConfig, PerceiverConfig
from ritornello.studies import report
from ritornello.studies.declared.dsmr import schedules
from ritornello.studies.record import BEGINNING_TOKENS, BLOCK_TOKENS
from ritornello.studies.report import PARAMETERS, PERPLEXITY, ROW, SEEDS, Column, Interval, Row
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
    single = replace(multi, model=replace(recipe.model, scales=(None,), layers=layers))
    two_scale = schedules(of_dsmr(recipe), budget_tokens)["two-scale"]
    return dict(zip(ORDER, (replace(single, segmentation="random_start"), single, multi, two_scale)))


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
    return f"{row.first.recipe.segmentation}; looks back {looks}, {counted(model.layers, 'layers')}"


COLUMNS = (
    *(ROW, SEEDS),
    Column("", "model", lambda row, _: {"family": row.first.model.family, **row.first.model.to_json()}),
    Column("", "segmentation", lambda row, _: row.first.recipe.segmentation if row.first.model.crops else None),
    report.ratio("perplexity / baseline", "perplexity", ".3f"),
    report.ratio("tokens/s / baseline", "tokens_per_s"),
    report.ratio("peak memory / baseline", "peak_bytes"),
    report.ratio("session / baseline", "session_bytes"),
    report.ratio("time per played token / baseline", "played_token_s"),
    *(PERPLEXITY, report.plain("tokens_per_s"), report.plain("peak_bytes")),
    Column("", "nats_per_token.by_piece", lambda row, _: row.interval("by_piece")),
    Column("", "nats_per_token.beginnings", lambda row, _: row.interval("beginnings")),
    report.nats_above("behind_baseline.by_piece", "nats/token behind baseline"),
    report.nats_above("behind_baseline.beginnings", part="beginnings"),
    report.nats_above_by_seed("beginnings_behind_baseline_by_seed", part="beginnings"),
    report.plain("session_bytes", "session", lambda size: f"{size / 1e6:.2f} MB"),
    report.plain("played_token_s", "time per played token", lambda seconds: f"{seconds * 1000:.2f} ms"),
    PARAMETERS,
    Column("segmentation and sight", "look", lambda row, _: look(row)),
)
BEGINNINGS = (
    ROW,
    report.nats_above("", f"nats/token behind {BASELINE}", "beginnings"),
    report.nats_above_by_seed("", "the same by seed", "beginnings"),
    Column("nats/token", "", lambda row, _: row.interval("beginnings"), ".4f"),
)


def notes(rows: list[Row]) -> list[str]:
    """What was equal, how the families read, and what the paper has otherwise."""
    first, runs = rows[0].first, [run for row in rows for run in row.runs]
    models = {row.name: row.first.model for row in rows}
    cropped = {name: model for name, model in models.items() if isinstance(model, PerceiverConfig)}
    looks = ", ".join(f"{name} {len(model.scales)} + {model.layers}" for name, model in cropped.items())
    lines = [f"Size: {report.span(run.parameters for run in runs)} parameters."]
    unlike = [] if report.on_maestro(rows) else ["its data are MAESTRO"]
    if cropped:
        lines[0] += f" A look at the context has the weights of a layer of latents; looks and layers: {looks}."
        largest = max(cropped.values(), key=lambda model: len(model.scales))
        here = {"N": largest.context_tokens, "Q": largest.latents, "width": largest.width, "layers": largest.layers}
        here |= {"short scale": min(scales)} if (scales := [s for s in largest.scales if s is not None]) else {}
        unlike += [f"{name} {PAPER[name]:,} (here {value:,})" for name, value in here.items() if value != PAPER[name]]
    if {BASELINE, SEGMENTED} <= cropped.keys():
        lines.append(f"{BASELINE} and {SEGMENTED}: the same model with the same weights at the start.")
    if cropped and (streamed := [run for run in runs if not run.model.crops]):
        share = streamed[0].training.tokens / first.settings.corpus_tokens["train"]
        interleave = streamed[0].recipe.interleave
        turns = f"{interleave} groups of lanes in turn, " if interleave > 1 else ""
        lines.append(
            "Not equal: which tokens training predicts, for that is the first experiment. DSMR reads pieces from start "
            f"to end, {share:.0%} of an epoch, {turns}and carries its memory; a "
            "Perceiver reads crops, one of a piece in an epoch and in the same order for each seed, so that as many "
            "predicted tokens come from many more pieces, each with its context read anew."
        )
    compositions = {piece.composition for piece in first.beginnings}
    return [
        *lines,
        f"Beginnings: the first {BEGINNING_TOKENS:,} tokens of all {len(first.beginnings)} validation pieces, "
        f"performances of {len(compositions)} compositions.",
        *([f"Not equal to the paper: {', '.join(unlike)}."] if unlike else []),
        "The paper gives no likelihoods: its table compares generated sets by their features, as 'study table "
        "perceivers --sets' does.",
        report.INTERVALS,
        f"{report.PEAK_MEMORY} A session is what playing one piece keeps in memory; time per played token is processor "
        f"time on one thread, from token {first.playing.after_tokens if first.playing else 0:,} on, windows' moves "
        "included.",
    ]


def sections(rows: list[Row], baseline: Row | None) -> list[str]:
    """Beginnings, which the first experiment is about, and positions."""
    return [
        "## Beginnings",
        f"Nats/token of the first {BEGINNING_TOKENS:,} tokens of every validation piece.",
        report.table(BEGINNINGS, rows, baseline),
        *verdict(baseline, report.row_named(rows, SEGMENTED)),
        "## By position",
        *report.position_tables(rows),
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


@in_house_look
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
    report.name_heights(beginnings, rows)
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
