"""From records to a report: rows of runs, their figures with errors, and tables as Markdown, JSON and pictures.

Two kinds of error stand beside a figure. An `Estimate` has the standard deviation over seeds, or the standard error
over pieces. An `Interval` is a bootstrap over compositions, each drawn with all its performances, since those stand and
fall together (Efron and Tibshirani 1993, section 8.5, for clusters). In a difference seeds (same weights at the start,
same data in the same order) and pieces are paired. Axes: P pieces, K blocks of a piece.
"""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray

from ritornello.charts import FAINT, INK, STRIPE, in_house_look, new_figure, save
from ritornello.errors import counted
from ritornello.horizons.costs import BYTES_PER_NUMBER
from ritornello.reports.table import markdown_table
from ritornello.studies.record import BLOCK_TOKENS, Bin, Part, Record

if TYPE_CHECKING:
    from ritornello.studies.study import Study

Floats = NDArray[np.float64]
RESAMPLES = 10_000
COVERED = 0.95

STATE_AFTER_TOKENS = 16_384  # of a piece: what an unlimited state is counted for

OVER_SEEDS = "± is the standard deviation over seeds"
INTERVALS = (
    f"{OVER_SEEDS}. [low, high] is the interval of {COVERED:.0%} over compositions, drawn with all their performances; "
    "in a difference seeds and pieces are paired."
)
PEAK_MEMORY = (
    "Peak memory is that of training and its validations beyond the idle process, counted alike in every row; an "
    "unlimited memory counts as far as the pieces that were read had filled it."
)


class Estimate(NamedTuple):
    """A figure, and how far it may be off."""

    mean: float
    spread: float | None
    """standard deviation over seeds, or standard error over pieces; None of a single one"""

    def text(self, form: str) -> str:
        return f"{self.mean:{form}}" + ("" if self.spread is None else f" ± {self.spread:{form.lstrip('+')}}")


class Interval(NamedTuple):
    """Nats/token, or a difference of two, and where it would lie with other compositions."""

    mean: float
    low: float
    high: float

    def text(self, form: str) -> str:
        return f"{self.mean:{form}} {self.limits(form)}"

    def limits(self, form: str) -> str:
        return f"[{self.low:{form}}, {self.high:{form}}]"


@dataclass(frozen=True)
class Row:
    """The runs of one row, in the order of their seeds."""

    name: str
    runs: Sequence[Record]

    @property
    def first(self) -> Record:
        """Of the runs, for what is the same in all."""
        return self.runs[0]

    @property
    def seeds(self) -> list[int]:
        return [run.seed for run in self.runs]

    @property
    def perplexity(self) -> Estimate:
        """Of whole validation pieces, at the best checkpoint, over seeds."""
        return over_seeds([run.evaluation.perplexity for run in self.runs])

    @property
    def nats_per_token(self) -> Estimate:
        """Of whole validation pieces, at the best checkpoint, over seeds."""
        return over_seeds([run.evaluation.nats_per_token for run in self.runs])

    @property
    def tokens_per_s(self) -> float | None:
        """Of training, median over seeds; None where no run was long enough to tell."""
        return _median(run.training.tokens_per_s for run in self.runs)

    @property
    def peak_bytes(self) -> float | None:
        """Of a training's process or device beyond its idle baseline, median over seeds; None where not measured."""
        return _median(run.training.peak_bytes - run.training.idle_bytes for run in self.runs)

    @property
    def played_token_s(self) -> float | None:
        """Processor time of a played token, median over seeds."""
        return _median(run.playing.cpu_seconds_per_token for run in self.runs if run.playing)

    @property
    def session_bytes(self) -> int | None:
        """What playing one piece keeps in memory."""
        return self.first.playing.session_bytes if self.first.playing else None

    @property
    def state_bytes(self) -> int:
        """Keys and values of one lane after `STATE_AFTER_TOKENS`, in the precision of the run; of a DSMR."""
        size = BYTES_PER_NUMBER[self.first.settings.precision]
        return self.first.recipe.streaming.held_bytes(STATE_AFTER_TOKENS, bytes_per_number=size)

    def paired(self, other: Row) -> list[tuple[Record, Record]]:
        """The runs of both rows with the same seed; none of a row with itself."""
        theirs = {} if other is self else {run.seed: run for run in other.runs}
        return [(run, theirs[run.seed]) for run in self.runs if run.seed in theirs]

    def nats_above(self, other: Row | None) -> Estimate | None:
        """Nats/token that this row is worse by, with the standard error over pieces; None without a common seed."""
        more = None if other is None else self._mean(_nats("by_piece"), other)
        if more is None:
            return None
        tokens = _tokens(self.first.by_piece)
        mean, count = float(more.sum() / tokens.sum()), len(more)
        # The ratio estimator's standard error: pieces weigh as much as they have tokens.
        squares = float(((more - mean * tokens) ** 2).sum())
        error = math.sqrt(count / (count - 1) * squares) / float(tokens.sum()) if count > 1 else None
        return Estimate(mean, error)

    def interval(self, part: Part, other: Row | None = None) -> Interval | None:
        """Nats/token, or how many more than another row; the mean over (common) seeds. None without one."""
        nats, pieces = self._mean(_nats(part), other), getattr(self.first, part)
        return None if nats is None else _bootstrap(nats, _tokens(pieces), _compositions(pieces))

    def nats_above_by_seed(self, part: Part, other: Row | None) -> list[float]:
        """Nats/token that the row is worse by than another with each common seed."""
        pairs = self.paired(other) if other else []
        return [float((_nats(part)(a) - _nats(part)(b)).sum() / _tokens(getattr(a, part)).sum()) for a, b in pairs]

    def by_block(self, part: Part, other: Row | None = None) -> list[Interval]:
        """`interval` from block to block of `BLOCK_TOKENS`, each of the pieces that are as long."""
        pieces, nats = getattr(self.first, part), self._mean(lambda run: _blocks(getattr(run, part)), other)
        lengths, compositions, blocks = _tokens(pieces), _compositions(pieces), []
        for block, column in enumerate(() if nats is None else nats.T):
            tokens = np.clip(lengths - block * BLOCK_TOKENS, 0, BLOCK_TOKENS)
            long = tokens > 0
            blocks.append(_bootstrap(column[long], tokens[long], compositions[long]))
        return blocks

    def _mean(self, of_run: Callable[[Record], Floats], other: Row | None) -> Floats | None:
        """Over the seeds; with another row, of the differences over the common seeds."""
        pairs = [] if other is None else self.paired(other)
        values = [of_run(mine) - of_run(theirs) for mine, theirs in pairs]
        values = [of_run(run) for run in self.runs] if other is None else values
        return np.mean(values, axis=0) if values else None

    def bins(self, of_run: Callable[[Record], Sequence[Bin]]) -> list[tuple[Bin, Estimate | None]]:
        """Bins of the first run, each with nats/token over seeds; None where there are no tokens."""
        columns = [(column, [bin_.nats_per_token for bin_ in column]) for column in zip(*map(of_run, self.runs))]
        return [(column[0], None if None in nats else over_seeds(nats)) for column, nats in columns]

    def repeats(self) -> list[tuple[int, int, Estimate]]:
        """The repeat test: gap in tokens, pieces, and the gain with its standard error over pieces, seeds averaged."""
        gaps = []
        for of_runs in zip(*(run.repeats for run in self.runs)):
            mean, spread = over_seeds(np.mean([recall.gains for recall in of_runs], axis=0).tolist())
            count = len(of_runs[0].gains)
            gaps.append((of_runs[0].gap_tokens, count, Estimate(mean, spread and spread / math.sqrt(count))))
        return gaps

    def when_cut(self) -> list[tuple[int, int, Estimate]]:
        """The most tokens that a layer was left, the budget that was left, and nats/token."""
        cuts = zip(*(run.cuts for run in self.runs))
        return [(c[0].most_tokens, c[0].budget_tokens, over_seeds([cut.nats_per_token for cut in c])) for c in cuts]


def over_seeds(values: Sequence[float]) -> Estimate:
    return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def _median(values: Iterable[float | None]) -> float | None:
    """Of what could be measured; None where nothing could."""
    known = [value for value in values if value]
    return statistics.median(known) if known else None


def _bootstrap(nats: Floats, tokens: NDArray[np.int64], compositions: NDArray[np.str_]) -> Interval:
    names, which = np.unique(compositions, return_inverse=True)
    sums, counts = np.bincount(which, nats), np.bincount(which, tokens)
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _nats(part: Part) -> Callable[[Record], Floats]:
    return lambda run: np.array([piece.nats for piece in getattr(run, part)])


def _tokens(pieces: Any) -> NDArray[np.int64]:
    return np.array([piece.tokens for piece in pieces])


def _compositions(pieces: Any) -> NDArray[np.str_]:
    return np.array([piece.composition for piece in pieces])


def _blocks(pieces: Any) -> Floats:
    """(P, K) nats, 0 behind a piece's end."""
    table = np.zeros((len(pieces), max(len(piece.blocks) for piece in pieces)))
    for line, piece in zip(table, pieces):
        line[: len(piece.blocks)] = piece.blocks
    return table


def rows_of(study: Study, records: Iterable[Record]) -> list[Row]:
    """The rows that have runs, in the study's order."""
    by_name: dict[str, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.seed):
        by_name.setdefault(record.row, []).append(record)
    return sorted((Row(name, runs) for name, runs in by_name.items()), key=study.order)


def row_named(rows: Iterable[Row], name: str) -> Row | None:
    """The row of that name, where it is done."""
    return next((row for row in rows if row.name == name), None)


# ---- tables ----

Form = str | Callable[[Any], str]


@dataclass(frozen=True)
class Column:
    """One figure of every row: in the table below its heading, in JSON by its key."""

    heading: str
    """of none, it is in JSON alone"""
    key: str
    """its dots nest"""
    value: Callable[[Row, Row | None], Any]
    """of a row, and of the baseline where that is done: a number, text, `Estimate`, `Interval`, a list, or None"""
    form: Form = ""
    """how it stands in a cell: a format, or what makes the text"""


def plain(key: str, heading: str = "", form: Form = "") -> Column:
    """An attribute of `Row`, by its name."""
    return Column(heading, key, lambda row, _: getattr(row, key), form)


def ratio(heading: str, key: str, form: str = ".2f") -> Column:
    """An attribute of `Row` as a share of the baseline's."""

    def value(row: Row, baseline: Row | None) -> float | None:
        own, theirs = (getattr(figure, key) if figure else None for figure in (row, baseline))
        own, theirs = (figure.mean if isinstance(figure, Estimate) else figure for figure in (own, theirs))
        return own / theirs if own is not None and theirs else None

    return Column(heading, f"ratios.{key}", value, form)


def nats_above(key: str, heading: str = "", part: Part = "by_piece") -> Column:
    """Nats/token more than the baseline, with an `Interval`."""
    return Column(heading, key, lambda row, baseline: baseline and row.interval(part, baseline), "+.4f")


def nats_above_by_seed(key: str, heading: str = "", part: Part = "by_piece") -> Column:
    """Nats/token more than the baseline, with each seed."""
    return Column(heading, key, lambda row, baseline: row.nats_above_by_seed(part, baseline), "+.4f")


ROW = Column("row", "row", lambda row, _: row.name)
SEEDS, PERPLEXITY = plain("seeds"), plain("perplexity", "perplexity", ".3f")
PARAMETERS = Column("parameters", "parameters", lambda row, _: row.first.parameters, ",")


def cell(value: Any, form: Form = "") -> str:
    """A figure as text; empty where there is none."""
    if value is None:
        return ""
    if callable(form):
        return form(value)
    if isinstance(value, (Estimate, Interval)):
        return value.text(form)
    return ", ".join(f"{item:{form}}" for item in value) if isinstance(value, list) else f"{value:{form}}"


def markdown(study: Study, records: Iterable[Record]) -> str:
    """The whole report of the runs that there are."""
    rows = rows_of(study, records)
    baseline = row_named(rows, study.baseline)
    missing = "" if baseline else f" No run of {study.baseline} is done: what is measured against it is missing."
    parts = [
        f"## {study.heading}",
        study.introduction + missing,
        table(study.columns, rows, baseline),
        "\n".join(f"- {note}" for note in [*common_notes(rows), *study.notes(rows)]),
        *study.sections(rows, baseline),
    ]
    return "\n\n".join(parts) + "\n"


def figures(study: Study, records: Iterable[Record]) -> list[dict[str, Any]]:
    """Every column of every row as JSON-able values."""
    rows = rows_of(study, records)
    baseline, of_rows = row_named(rows, study.baseline), []
    for row in rows:
        of_row: dict[str, Any] = {}
        for column in study.columns:
            *above, key = column.key.split(".")
            place, value = of_row, column.value(row, baseline)
            for name in above:
                place = place.setdefault(name, {})
            place[key] = value._asdict() if isinstance(value, (Estimate, Interval)) else value
        of_rows.append(of_row)
    return of_rows


def table(columns: Sequence[Column], rows: Sequence[Row], baseline: Row | None) -> str:
    return markdown_table(*cells(columns, rows, baseline))


def cells(columns: Sequence[Column], rows: Sequence[Row], baseline: Row | None) -> tuple[list[str], list[list[str]]]:
    """Headings, and a line for each row."""
    shown = [column for column in columns if column.heading]
    lines = [[cell(column.value(row, baseline), column.form) for column in shown] for row in rows]
    return [column.heading for column in shown], lines


def table_of_bins(
    rows: list[Row], of_run: Callable[[Record], Sequence[Bin]], *, names: Sequence[str] = (), counts: bool = True
) -> list[str]:
    """Nats/token of bins, by their names or limits; empty cells of older runs without, and no table of none at all."""
    bins = {row.name: row.bins(of_run) for row in rows}
    places = [place for place, _ in max(bins.values(), key=len)]
    labels = [
        f"{name} ({place.tokens:,} tokens)" if counts else name
        for name, place in zip(names or map(_limits, places), places)
    ]
    form: Form = ".4f" if counts else lambda nats: f"{nats.mean:.4f}"
    return _padded(labels, {name: [cell(nats, form) for _, nats in of_row] for name, of_row in bins.items()})


def position_tables(rows: list[Row]) -> list[str]:
    """Nats/token by position in the piece, as the runs' evaluations have it."""
    by_position = table_of_bins(rows, lambda run: run.evaluation.by_position, counts=False)
    return ["Nats/token by position in the piece.", *by_position]


def repeat_tables(rows: list[Row]) -> list[str]:
    """What hearing a passage again is worth by the gap before it, and nats/token by the age of what returns."""
    gaps = [f"{gap:,} ({pieces})" for gap, pieces, _ in max((row.repeats() for row in rows), key=len)]
    gains = _padded(gaps, {row.name: [cell(gain, "+.3f") for *_, gain in row.repeats()] for row in rows})
    ages = table_of_bins(rows, lambda run: run.material.by_age)
    words = (
        "The repeat test: by how many nats/token a passage of 160 tokens is foreseen better when it is played again "
        "after a gap of so many tokens (pieces). ± is the standard error over pieces.",
        "Nats/token by how many tokens ago a passage of eight notes was played last.",
    )
    return [part for text, table in zip(words, (gains, ages)) for part in ([text, *table] if table else [])]


def _padded(columns: list[str], lines: dict[str, list[str]]) -> list[str]:
    width = len(columns)
    filled = [[name, *cells, *[""] * (width - len(cells))] for name, cells in lines.items()]
    return [markdown_table(["row", *columns], filled)] if columns else []


def _limits(place: Bin) -> str:
    if place.from_ is None:
        return "never"
    return f"{place.from_:,} to {place.to:,}" if place.to else f"{place.from_:,} on"


# ---- what was equal ----


def common_notes(rows: list[Row]) -> list[str]:
    """What was equal in all runs and what was not, by their settings and what they measured."""
    runs = [run for row in rows for run in row.runs]
    tokens, seeds = span(run.training.tokens for run in runs), sorted({run.seed for run in runs})
    fewer = [f"{row.name} only {', '.join(map(str, row.seeds))}" for row in rows if row.seeds != seeds]

    def data(run: Record) -> str:
        return f"{run.settings.corpus}; {run.settings.corpus_tokens['train']:,} tokens to train on"

    def training(run: Record) -> str:
        settings, recipe = run.settings, run.settings.recipe_settings
        lanes = counted(recipe.lanes, "lanes")
        lanes = lanes if recipe.interleave == 1 else f"{recipe.interleave} groups of {lanes} that take turns"
        whole = f" of the first {recipe.piece_tokens:,} of each piece" if recipe.piece_tokens else ""
        kind = "under the grammar (legal)" if settings.legal else "over all events, without the grammar (free)"
        steps = f"{counted(settings.steps, 'steps')} of the recipe {settings.recipe} ({lanes})"
        return f"{steps}, {tokens} tokens{whole}, in {settings.precision}, {kind}"

    def figures(run: Record) -> str:
        return f"{counted(run.evaluation.pieces, 'whole validation pieces')} ({run.evaluation.tokens:,} tokens)"

    def machine(run: Record) -> str:
        return f"{run.machine.device}, threads: {run.machine.threads}, torch {run.machine.torch}"

    return [
        f"{equal(rows, 'data', data)}.",
        f"{equal(rows, 'training', training)}.",
        f"{equal(rows, 'figures', figures)}, read from an empty state at the checkpoint that validated best.",
        f"Seeds: {'; '.join([', '.join(map(str, seeds)), *fewer])}.",
        f"{equal(rows, 'machine', machine)}; tokens/s and peak memory also show what else ran there ('ritornello bench "
        "train' measures them alone).",
    ]


def equal(rows: list[Row], what: str, words: Callable[[Record], str]) -> str:
    """That something was equal in all runs, or all that it was."""
    values = sorted({words(run) for row in rows for run in row.runs})
    return f"{'Equal' if len(values) == 1 else 'Not equal'}, {what}: {'; '.join(values)}"


def span(values: Iterable[int]) -> str:
    """From the least to the greatest, or the one that all are."""
    known = sorted(values)
    return f"{known[0]:,}" if known[0] == known[-1] else f"{known[0]:,} to {known[-1]:,}"


def on_maestro(rows: list[Row]) -> bool:
    """Whether every run read the papers' data, by the name that 'ritornello data maestro' gives them."""
    return all(run.settings.corpus.startswith("MAESTRO") for row in rows for run in row.runs)


# ---- pictures ----


@in_house_look
def draw_table(study: Study, records: Iterable[Record], path: Path) -> None:
    """The table of the report as a picture; its first and last column are words."""
    rows = rows_of(study, records)
    header, lines = cells(study.columns, rows, row_named(rows, study.baseline))
    above = [text.replace(" / ", "\n/ ").replace(" behind ", "\nbehind ") for text in header]
    texts = [[text.strip("`") for text in line] for line in lines]
    widths = [max(len(text) for text in [*head.split("\n"), *column]) + 2 for head, column in zip(above, zip(*texts))]
    figure = new_figure(0.085 * sum(widths), 0.5 + 0.32 * len(texts))
    axes = figure.subplots()
    axes.axis("off")
    shares, whole = [width / sum(widths) for width in widths], cast(Any, (0, 0, 1, 1))
    table = axes.table(cellText=texts, colLabels=above, cellLoc="right", colWidths=shares, bbox=whole)
    table.auto_set_font_size(False)
    table.set_fontsize(9)
    for (line, column), box in table.get_celld().items():
        box.set(linewidth=0, height=1.5 if line == 0 else 1, facecolor=STRIPE if line % 2 else "none")
        if column in (0, len(header) - 1):
            box.get_text().set_horizontalalignment("left")
        if line == 0 or header[column] == "paper":
            box.get_text().set_color(FAINT)
    save(figure, path)


@in_house_look
def draw_nats_above(rows: list[Row], baseline: Row | None, path: Path) -> None:
    """What each run is behind the baseline's with the same seed; without a baseline, its nats/token."""
    figure = new_figure(9, 0.28 * len(rows) + 1.2)
    axes = figure.subplots()
    base = {run.seed: run.evaluation.nats_per_token for run in baseline.runs} if baseline else {}
    for height, row in enumerate(reversed(rows)):
        runs = [run for run in row.runs if run.seed in base or not base]
        nats = [run.evaluation.nats_per_token - base.get(run.seed, 0) for run in runs]
        axes.plot(nats, [height] * len(nats), "o", color=INK, alpha=0.6)
    if baseline:
        axes.axvline(0, color=FAINT, lw=1)
    name_heights(axes, rows)
    axes.set_xlabel(f"nats/token more than {baseline.name}, by seed" if baseline else "nats/token, by seed")
    save(figure, path)


def name_heights(axes: Any, rows: list[Row]) -> None:
    """Rows as the heights of a picture, the first on top."""
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
