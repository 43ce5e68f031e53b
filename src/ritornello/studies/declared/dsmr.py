"""The study of arXiv 2602.19816: one model under other memory horizons, beside the figures of its main table."""

from __future__ import annotations

from dataclasses import replace
from functools import partial
from itertools import cycle
from pathlib import Path
from statistics import fmean
from typing import Any, NamedTuple

from ritornello.charts import COLOURS, FAINT, in_house_look, new_figure, save
from ritornello.errors import counted
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.text import study_texts
from ritornello.recall import gap_axis
from ritornello.studies import report
from ritornello.studies.record import Bin, Record
from ritornello.studies.report import PERPLEXITY, ROW, SEEDS, Column, Estimate, Row
from ritornello.studies.study import Recipes, Study
from ritornello.training.recipes import Recipe

FULL = "full memory"
GROWING_SHARE = 0.5  # of the run, in two rows of ours
INTERCHANGED = ("binary, low layers", "binary, high layers", "binary, alternating")
"""rows with the same total memory in different layers"""
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
    recipe = replace(recipe, balance_titles=False)  # crops are taken of every performance too
    texts = study_texts(layers=recipe.streaming.schedule.layers, budget_tokens=budget_tokens)
    rows = {name: recipe.changed(schedule=text) for name, text in texts.items()}
    return rows | {
        f"{name}, growing": replace(rows[name], horizon_warmup_share=GROWING_SHARE) for name in (FULL, "two-scale")
    }


def published(heading: str, measure: str, form: str, *, key: str = "paper_ratios") -> Column:
    """The paper's figure as a share of full memory's; with the key ``paper`` as it is."""

    def value(row: Row, _: Row | None) -> float | None:
        paper = PUBLISHED.get(row.name)
        whole = getattr(PUBLISHED[FULL], measure) if key == "paper_ratios" else 1
        return paper and float(getattr(paper, measure) / whole)

    return Column(heading, f"{key}.{measure}", value, form)


COLUMNS = (
    *(ROW, SEEDS),
    *(report.ratio("perplexity / full", "perplexity", ".3f"), published("paper", "perplexity", ".3f")),
    *(report.ratio("tokens/s / full", "tokens_per_s"), published("paper", "tokens_per_s", ".2f")),
    *(report.ratio("peak memory / full", "peak_bytes"), published("paper", "peak_bytes", ".2f")),
    report.ratio("state / full", "state_bytes", ".3f"),
    *(PERPLEXITY, published("paper", "perplexity", ".2f", key="paper")),
    *(published("", measure, "", key="paper") for measure in ("peak_bytes", "tokens_per_s")),
    Column("nats/token behind full", "behind_full", Row.nats_above, "+.4f"),
    *map(report.plain, ("nats_per_token", "tokens_per_s", "peak_bytes", "state_bytes")),
    Column("", "budget_tokens", lambda row, _: schedule_of(row).budget_tokens),
    Column("horizons", "schedule", lambda row, _: str(schedule_of(row)), lambda text: f"`{text}`"),
)


def schedule_of(row: Row) -> HorizonSchedule:
    return row.first.recipe.streaming.schedule


def notes(rows: list[Row]) -> list[str]:
    """What was equal, and the paper has otherwise."""

    def size(run: Record) -> str:
        model = run.recipe.streaming
        return (
            f"{run.parameters / 1e6:.2f} M parameters in {counted(model.schedule.layers, 'layers')} of width "
            f"{model.width}, {counted(model.heads, 'heads')}, segments of {model.segment_tokens:,} tokens"
        )

    budgets = [tokens for row in rows if (tokens := schedule_of(row).budget_tokens) is not None]
    shares = {run.recipe.horizon_warmup_share for row in rows for run in row.runs} - {0}
    return [
        f"{report.equal(rows, 'size', size)}; for each seed the same first weights and order of pieces.",
        *([f"Budget of the limited rows: {report.span(budgets)} tokens."] if budgets else []),
        *(
            f"Growing, ours and not the paper's: in the first {share:.0%} of training no layer sees more of its memory "
            "than a segment, then two, four and so on; after it all."
            for share in shares
        ),
        f"Not equal to the paper: {'' if report.on_maestro(rows) else 'its data are MAESTRO, and '}its model, "
        "training and GPU are its own. Ratios compare, figures do not.",
        f"{report.OVER_SEEDS}; of nats/token behind another row it is the standard error over pieces.",
        f"{report.PEAK_MEMORY} The state is one lane's after {report.STATE_AFTER_TOKENS:,} tokens, in the precision of "
        "training.",
    ]


def sections(rows: list[Row], full: Row | None) -> list[str]:
    """Whether one layer stands in for another, and what memory is for."""
    cuts = sorted({most for row in rows for most, *_ in row.when_cut()})
    cut = [Column(f"{most:,}", "", partial(nats_when_cut, most), ".4f") for most in cuts]
    return [
        *interchange([row for row in rows if row.name in INTERCHANGED]),
        "## What memory is for",
        "Nats/token inside passages that returned, and of all other tokens; both from the first token of a piece on "
        "that can be a return.",
        *report.table_of_bins(rows, lambda run: (run.material.returning, run.material.new), names=("returning", "new")),
        *report.repeat_tables(rows),
        *report.position_tables(rows),
        "Nats/token when no layer of the trained model is left more tokens than so many (empty: none had more).",
        report.table((ROW, *cut, report.plain("nats_per_token", "as trained", ".4f")), rows, full),
    ]


def nats_when_cut(most_tokens: int, row: Row, _: Row | None) -> Estimate | None:
    """Nats/token where no layer is left more tokens; None where none had more."""
    return next((nats for most, _, nats in row.when_cut() if most == most_tokens), None)


def interchange(rows: list[Row]) -> list[str]:
    """The same total memory in different layers, the best row first."""
    if len(rows) < 2:
        return []
    best, worst = rows[0], rows[-1]
    layers = {row.name: [layer for layer, h in enumerate(schedule_of(row).horizons, 1) if h != 0] for row in rows}
    columns = (
        ROW,
        Column("layers that remember", "", lambda row, _: layers[row.name]),
        Column("tokens in all", "", lambda row, _: schedule_of(row).budget_tokens, ","),
        PERPLEXITY,
        Column(f"nats/token behind {best.name}", "", Row.nats_above, "+.4f"),
    )
    more, pairs = worst.nats_above(best), worst.paired(best)
    worse = sum(a.evaluation.nats_per_token > b.evaluation.nats_per_token for a, b in pairs)
    words = more and (
        f"The worst of them is {more.mean:.4f} nats/token behind the best, {more.mean / (more.spread or 1):.1f} times "
        f"the standard error over pieces; it is the worse of the two with {worse} of {counted(len(pairs), 'seeds')}."
    )
    return [
        "## Can one layer stand in for another?",
        "The same total memory in different layers.",
        report.table(columns, rows, best),
        *([words] if words and more and more.spread else []),
    ]


@in_house_look
def draw(rows: list[Row], full: Row | None, path: Path) -> None:
    """Perplexity by row, training curves against tokens and seconds, cuts, positions, the repeat test."""
    colours = dict(zip((row.name for row in rows), cycle(COLOURS)))
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
    report.name_heights(axes, rows)
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
