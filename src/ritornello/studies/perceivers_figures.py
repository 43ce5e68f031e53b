"""The PerceiverS study as pictures: its table, and likelihood by position with the beginnings beside it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from ritornello.charts import COLOURS, new_figure, save
from ritornello.studies.figures import draw_cells, name_heights
from ritornello.studies.intervals import Interval, behind, behind_by_block, by_block, nats_per_token
from ritornello.studies.perceivers import BASELINE, HEADER, ORDER, cells, rows_of
from ritornello.studies.results import BEGINNING_TOKENS, BLOCK_TOKENS, Result
from ritornello.studies.summary import Row

SHOWN_BLOCKS = 32  # of whole pieces; fewer and fewer pieces are longer
COLOUR_OF = dict(zip(ORDER, COLOURS))


def draw_table(results: list[Result], path: Path) -> None:
    """The table of the report, as a picture."""
    draw_cells(HEADER, cells(results), path)


def draw_curves(results: list[Result], path: Path) -> None:
    """Likelihood by position, what it is beside the baseline's, beginnings, and validation during training."""
    rows = rows_of(results)
    baseline = next((row for row in rows if row.name == BASELINE), None)
    figure = new_figure(13, 8.5)
    ((position, beginnings), (more, training)) = figure.subplots(2, 2, width_ratios=(3, 2))
    for row in rows:
        _along(position, by_block(row, "by_piece"), row)
    position.set(title="Whole pieces, by position", xlabel="from token", ylabel="nats/token")
    for row in rows:
        if baseline is not None and row is not baseline:
            _along(more, behind_by_block(row, baseline, "by_piece"), row, shaded=True)
    more.axhline(0, color=COLOUR_OF[BASELINE], lw=1)
    more.set(title=f"The same, beside {BASELINE}", xlabel="from token", ylabel=f"nats/token more than {BASELINE}")
    _beginnings(beginnings, rows, baseline)
    _validations(training, rows)
    figure.legend(*position.get_legend_handles_labels(), loc="outside lower center", ncols=len(rows))
    save(figure, path)


def _along(axes: Any, blocks: list[Interval], row: Row, *, shaded: bool = False) -> None:
    shown = blocks[:SHOWN_BLOCKS]
    at, colour = [BLOCK_TOKENS * i for i in range(len(shown))], COLOUR_OF[row.name]
    axes.plot(at, [nats.mean for nats in shown], "o-", ms=3, lw=1.2, color=colour, label=row.name)
    if shaded:
        axes.fill_between(at, [n.low for n in shown], [n.high for n in shown], color=colour, alpha=0.15, lw=0)
    axes.xaxis.set_major_formatter("{x:,.0f}")


def _beginnings(axes: Any, rows: list[Row], baseline: Row | None) -> None:
    """Against the baseline where it is there, for pieces differ by more than models do."""
    for height, row in enumerate(reversed(rows)):
        found = nats_per_token(row, "beginnings") if baseline is None else behind(row, baseline, "beginnings")
        if found is not None:
            axes.plot([found.low, found.high], [height, height], "-", color=COLOUR_OF[row.name], lw=3, alpha=0.4)
            axes.plot([found.mean], [height], "o", color=COLOUR_OF[row.name])
    name_heights(axes, rows)
    axes.locator_params(axis="x", nbins=5)
    label = "nats/token" if baseline is None else f"nats/token more than {BASELINE}, with intervals"
    axes.set(title=f"First {BEGINNING_TOKENS:,} tokens of all validation pieces", xlabel=label)


def _validations(axes: Any, rows: list[Row]) -> None:
    """All seeds; losses of training are of other tokens in each row and cannot be compared."""
    for row in rows:
        for run in row.runs:
            read = [line for line in run["training"]["log"] if "validation" in line]
            tokens, nats = [line["tokens"] / 1e6 for line in read], [line["validation"] for line in read]
            axes.plot(tokens, nats, "o-", ms=3, lw=1, color=COLOUR_OF[row.name])
    axes.set(title="Whole validation pieces while training", xlabel="million predicted tokens", ylabel="nats/token")
