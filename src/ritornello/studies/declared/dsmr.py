"""The study of arXiv 2602.19816: one model under other memory horizons, beside the figures of its main table."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ritornello.charts import COLOURS, FAINT, new_figure, save
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.costs import costs_of
from ritornello.horizons.study import study_texts
from ritornello.models.config import DSMRConfig
from ritornello.recall import gap_axis
from ritornello.reports.table import markdown_table
from ritornello.studies.record import Bin, Record
from ritornello.studies.report import (
    PEAK_MEMORY,
    ROW,
    SEEDS,
    SEEDS_DONE,
    Column,
    Estimate,
    Row,
    cell,
    equal,
    name_heights,
    on_maestro,
    position_tables,
    ratio,
    repeat_tables,
    span,
    table_of_bins,
)
from ritornello.studies.study import Recipes, Study
from ritornello.training.recipes import Recipe

FULL = "full memory"
GROWING_SHARE = 0.5  # of the run, in two rows of ours
INTERCHANGED = ("binary, low layers", "binary, high layers", "binary, alternating")
"""rows with the same total memory in different layers"""
STATE_AFTER_TOKENS = 16_384  # of a piece: what an unlimited state is counted for
SMOOTHED_LINES = 10  # of the training log, one line being ten steps


class Published(NamedTuple):
    """A row of the paper's main table: MAESTRO, one GPU."""

    perplexity: float
    peak_bytes: float
    tokens_per_s: float


PUBLISHED = {
    FULL: Published(5.98, 15.5e9, 7618),
    "Perceiver-AR-like": Published(6.54, 6.3e9, 11753),
    "two-scale": Published(5.96, 6.3e9, 10339),
    "binary, sliding": Published(6.51, 7.8e9, 11061),
    "ascending": Published(6.15, 7.0e9, 10540),
}


def schedules(recipe: Recipe, budget_tokens: int) -> Recipes:
    """The paper's rows, and two of ours, whose memories grow during training."""
    recipe = replace(recipe, by_title=False)  # crops are taken of every performance too
    texts = study_texts(layers=recipe.streaming.schedule.layers, budget_tokens=budget_tokens)
    rows = {name: recipe.changed(schedule=text) for name, text in texts.items()}
    return rows | {f"{name}, growing": replace(rows[name], growing=GROWING_SHARE) for name in (FULL, "two-scale")}


def schedule_of(row: Row) -> HorizonSchedule:
    """The horizons of all runs of a row."""
    assert row.first.model.schedule is not None
    return row.first.model.schedule


def state_bytes(row: Row) -> int:
    """Keys and values of one lane after `STATE_AFTER_TOKENS`, in the precision of the run."""
    model = row.first.model
    assert isinstance(model, DSMRConfig)
    sizes = {"width": model.width, "segment_tokens": model.segment_tokens}
    return costs_of(model.schedule, piece_tokens=STATE_AFTER_TOKENS, **sizes).state_bytes[row.first.settings.precision]


MEASURES: dict[str, Callable[[Row], float | None]] = {
    "perplexity": lambda row: row.perplexity.mean,
    "tokens_per_s": lambda row: row.tokens_per_s,
    "peak_bytes": lambda row: row.peak_bytes,
    "state_bytes": state_bytes,
}


def ours(heading: str, measure: str, form: str) -> Column:
    """A figure as a share of full memory's."""
    return Column(f"{heading} / full", f"ratios.{measure}", ratio(MEASURES[measure]), form)


def paper(measure: str, form: str, *, key: str = "paper_ratios", heading: str = "paper") -> Column:
    """The paper's figure, or its share of full memory's."""

    def value(row: Row, baseline: Row | None) -> float | None:
        if row.name not in PUBLISHED:
            return None
        whole = getattr(PUBLISHED[FULL], measure) if key == "paper_ratios" else 1
        return float(getattr(PUBLISHED[row.name], measure) / whole)

    return Column(heading, f"{key}.{measure}", value, form)


COLUMNS = (
    ROW,
    SEEDS_DONE,
    *(ours("perplexity", "perplexity", ".3f"), paper("perplexity", ".3f")),
    *(ours("tokens/s", "tokens_per_s", ".2f"), paper("tokens_per_s", ".2f")),
    *(ours("peak memory", "peak_bytes", ".2f"), paper("peak_bytes", ".2f")),
    ours("state", "state_bytes", ".3f"),
    Column("perplexity", "perplexity", lambda row, _: row.perplexity, ".3f"),
    *(paper(measure, ".2f", key="paper", heading="") for measure in ("peak_bytes", "tokens_per_s")),
    paper("perplexity", ".2f", key="paper"),
    Column("nats/token behind full", "behind_full", Row.behind, "+.4f"),
    Column("", "nats_per_token", lambda row, _: row.nats_per_token),
    Column("", "tokens_per_s", lambda row, _: row.tokens_per_s),
    Column("", "peak_bytes", lambda row, _: row.peak_bytes),
    Column("", "state_bytes", lambda row, _: state_bytes(row)),
    Column("", "budget_tokens", lambda row, _: schedule_of(row).budget_tokens),
    Column("horizons", "schedule", lambda row, _: str(schedule_of(row)), lambda text: f"`{text}`"),
)


def notes(rows: list[Row]) -> list[str]:
    """What was equal, and the paper has otherwise."""

    def size(run: Record) -> str:
        model = run.model
        assert isinstance(model, DSMRConfig)
        return (
            f"{run.parameters / 1e6:.2f} M parameters in {model.schedule.layers} layers of width {model.width}, "
            f"{model.heads} heads, segments of {model.segment_tokens:,} tokens"
        )

    budgets = [tokens for row in rows if (tokens := schedule_of(row).budget_tokens) is not None]
    shares = {run.recipe.growing for row in rows for run in row.runs} - {0}
    return [
        f"{equal(rows, 'size', size)}; for each seed the same weights at the start and the same order of pieces.",
        *([f"Budget of the limited rows: {span(budgets)} tokens."] if budgets else []),
        *(
            f"Growing, ours and not the paper's: in the first {share:.0%} of training no layer sees more of its memory "
            "than a segment, then two, four and so on; after it all."
            for share in shares
        ),
        f"Not equal to the paper: {'' if on_maestro(rows) else 'its data are MAESTRO, and '}its model, training and "
        "GPU are its own. Ratios compare, figures do not.",
        f"{SEEDS}; of nats/token behind another row it is the standard error over pieces, seeds and pieces paired.",
        f"{PEAK_MEMORY} The state is one lane's after {STATE_AFTER_TOKENS:,} tokens, in the precision of training.",
    ]


def sections(rows: list[Row], full: Row | None) -> list[str]:
    """Whether one layer stands in for another, and what memory is for."""
    return [
        *interchange([row for row in rows if row.name in INTERCHANGED]),
        "## What memory is for",
        "Nats/token inside passages that returned, and of all other tokens; both from the first token of a piece on "
        "that can be a return.",
        *table_of_bins(rows, lambda run: (run.material.returning, run.material.new), names=("returning", "new")),
        *repeat_tables(rows),
        *position_tables(rows),
        "Nats/token when no layer of the trained model is left more tokens than so many (empty: none had more).",
        cuts_table(rows),
    ]


def interchange(rows: list[Row]) -> list[str]:
    """The same total memory in different layers, the best row first."""
    if len(rows) < 2:
        return []
    best, worst = rows[0], rows[-1]
    lines = [
        [
            row.name,
            ", ".join(str(layer) for layer, h in enumerate(schedule_of(row).horizons, 1) if h != 0),
            f"{schedule_of(row).budget_tokens:,}",
            cell(row.perplexity, ".3f"),
            cell(row.behind(best), "+.4f"),
        ]
        for row in rows
    ]
    header = ("row", "layers that remember", "tokens in all", "perplexity", f"nats/token behind {best.name}")
    parts = [
        "## Can one layer stand in for another?",
        "The same total memory in different layers.",
        markdown_table(header, lines),
    ]
    if (more := worst.behind(best)) is not None and more.spread:
        pairs = worst.paired(best)
        worse = sum(a.evaluation.nats_per_token > b.evaluation.nats_per_token for a, b in pairs)
        parts.append(
            f"The worst of them is {more.mean:.4f} nats/token behind the best, {more.mean / more.spread:.1f} times the "
            f"standard error over pieces; it is the worse of the two with {worse} of {len(pairs)} seeds."
        )
    return parts


def cuts_table(rows: list[Row]) -> str:
    """Nats/token of horizons cut at evaluation."""
    of_rows = {row.name: {most: nats for most, _, nats in row.when_cut()} for row in rows}
    cuts = sorted({most for of_row in of_rows.values() for most in of_row})
    lines = [
        [row.name, *(cell(of_rows[row.name].get(most), ".4f") for most in cuts), cell(row.nats_per_token, ".4f")]
        for row in rows
    ]
    return markdown_table(["row", *(f"{most:,}" for most in cuts), "as trained"], lines)


def draw(rows: list[Row], full: Row | None, path: Path) -> None:
    """Perplexity by row, training curves against tokens and seconds, cuts, positions, the repeat test."""
    colours = dict(zip((row.name for row in rows), COLOURS))
    figure = new_figure(15, 9.5)
    ((dots, tokens, seconds), (cuts, position, repeats)) = figure.subplots(2, 3)
    draw_perplexities(dots, rows, full, colours)
    draw_training(tokens, rows, colours, against="tokens", scale=1e-6, unit="million tokens")
    draw_training(seconds, rows, colours, against="seconds", scale=1 / 60, unit="minutes, validations included")
    reference = full or rows[0]
    bins = [(place.from_, nats.mean) for place, nats in of_positions(reference)]
    for row in rows:
        style: dict[str, Any] = {"ms": 3, "lw": 1, "color": colours[row.name]}
        whole, budget = row.nats_per_token.mean, schedule_of(row).budget_tokens
        points = [(left, nats.mean - whole) for _, left, nats in row.when_cut()]
        cuts.plot(*zip(*points, *([] if budget is None else [(budget, 0.0)])), "o-", **style)
        more = [nats.mean - theirs for (_, nats), (_, theirs) in zip(of_positions(row), bins)]
        position.plot(range(len(more)), more, "o-", **style)
        if gaps := [(gap, gain.mean) for gap, _, gain in row.repeats()]:
            repeats.plot(*zip(*gaps), "o-", **style)
    cuts.set_xscale("symlog", linthresh=100, base=10)
    cuts.set_xlim(left=0)
    cuts.xaxis.set_major_formatter("{x:,.0f}")
    cuts.set(title="Horizons cut at evaluation", xlabel="budget left, tokens", ylabel="nats/token more than uncut")
    position.set_xticks(range(len(bins)), [f"{low:,}" for low, _ in bins], rotation=45)
    label = f"nats/token more than {reference.name}"
    position.set(title="By position in the piece", xlabel="from token", ylabel=label)
    gap_axis(repeats)
    figure.legend(*tokens.get_legend_handles_labels(), loc="outside lower center", ncols=5)
    save(figure, path)


def of_positions(row: Row) -> list[tuple[Bin, Estimate]]:
    """Nats/token by position, of bins with tokens."""
    return [(place, nats) for place, nats in row.bins(lambda run: run.evaluation.by_position) if nats]


def draw_perplexities(axes: Any, rows: list[Row], full: Row | None, colours: dict[str, str]) -> None:
    """Of every seed, as a share of full memory's where that is done, beside the paper's."""
    whole = full.perplexity.mean if full else 1.0
    for height, row in enumerate(reversed(rows)):
        seeds = [run.evaluation.perplexity / whole for run in row.runs]
        axes.plot(seeds, [height] * len(seeds), "o", color=colours[row.name])
        if full and row.name in PUBLISHED:
            theirs = PUBLISHED[row.name].perplexity / PUBLISHED[FULL].perplexity
            axes.plot([theirs], [height], "|", color=FAINT, ms=14, mew=2)
    name_heights(axes, rows)
    axes.set(title="Perplexity / full memory (o by seed, | the paper's)" if full else "Perplexity (o by seed)")


def draw_training(
    axes: Any, rows: list[Row], colours: dict[str, str], *, against: str, scale: float, unit: str
) -> None:
    """The first seed's curve of each row; the y axis fits the last three quarters."""
    late: list[float] = []
    for row in rows:
        log = [line for line in row.first.training.log if line.nats is not None]
        nats = [fmean(line.nats or 0 for line in log[max(0, i - SMOOTHED_LINES) : i]) for i in range(1, len(log) + 1)]
        at = [getattr(line, against) * scale for line in log]
        axes.plot(at, nats, color=colours[row.name], lw=1, label=row.name)
        late += nats[len(nats) // 4 :]
    if late:
        margin = 0.05 * (max(late) - min(late)) or 0.1
        axes.set_ylim(min(late) - margin, max(late) + margin)
    axes.set(title=f"Training loss against {against}, first seed", xlabel=unit, ylabel="nats/token, mean of 100 steps")


STUDIES = (
    Study(
        name="dsmr",
        recipe="study",
        rows=schedules,
        baseline=FULL,
        order=lambda row: (row.name != FULL, row.perplexity.mean),
        heading="Perplexity, memory and speed",
        introduction="Ratios to full memory first, each with the paper's beside it.",
        columns=COLUMNS,
        notes=notes,
        sections=sections,
        draw=draw,
    ),
)
