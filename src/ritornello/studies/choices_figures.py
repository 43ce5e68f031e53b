"""The training and recall studies as pictures: the table, and how far each run is behind the unchanged recipe."""

from __future__ import annotations

from pathlib import Path

from ritornello.charts import FAINT, INK, new_figure, save
from ritornello.studies.choices import HEADER, cells, rows_of
from ritornello.studies.figures import draw_cells
from ritornello.studies.results import Result
from ritornello.studies.summary import UNCHANGED


def draw_table(results: list[Result], path: Path) -> None:
    """The table of the report, as a picture."""
    draw_cells(HEADER, cells(results), path)


def draw_curves(results: list[Result], path: Path) -> None:
    """What each row is behind the unchanged recipe with the same seed; without that, its nats/token."""
    rows = rows_of(results)
    unchanged = next((row for row in rows if row.name == UNCHANGED), None)
    figure = new_figure(9, 0.28 * len(rows) + 1.2)
    axes = figure.subplots()
    for height, row in enumerate(reversed(rows)):
        pairs = row.paired(unchanged) if unchanged else [(run, None) for run in row.runs]
        nats = [a["evaluation"]["nats_per_token"] - (b["evaluation"]["nats_per_token"] if b else 0) for a, b in pairs]
        axes.plot(nats, [height] * len(nats), "o", color=INK, alpha=0.6)
    if unchanged:
        axes.axvline(0, color=FAINT, lw=1)
    axes.set_yticks(range(len(rows)), [row.name for row in reversed(rows)])
    axes.set_xlabel(f"nats/token more than {UNCHANGED}, by seed" if unchanged else "nats/token, by seed")
    save(figure, path)
