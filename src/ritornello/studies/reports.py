"""What is made of each study's runs: a report, its figures, its table and its curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ritornello.studies import choices, choices_figures, figures, perceivers, perceivers_figures, summary, table
from ritornello.studies.results import Result
from ritornello.studies.summary import Row

Results = list[Result]


class Report(NamedTuple):
    """How the runs of one study are shown."""

    markdown: Callable[[Results], str]
    figures: Callable[[Results], list[dict[str, Any]]]
    """one JSON-able dictionary for each row"""
    draw_table: Callable[[Results, Path], None]
    draw_curves: Callable[[Results, Path], None]
    rows: Callable[[Results], list[Row]]
    """in the report's order"""
    baseline: str
    """the row that others are measured against"""


CHOICES = Report(
    choices.markdown,
    choices.figures,
    choices_figures.draw_table,
    choices_figures.draw_curves,
    choices.rows_of,
    summary.UNCHANGED,
)
REPORTS = {
    "dsmr": Report(
        table.markdown,
        summary.figures_of_rows,
        figures.draw_table,
        figures.draw_curves,
        summary.rows_of,
        summary.REFERENCE,
    ),
    "perceivers": Report(
        perceivers.markdown,
        perceivers.figures,
        perceivers_figures.draw_table,
        perceivers_figures.draw_curves,
        perceivers.rows_of,
        perceivers.BASELINE,
    ),
    "training": CHOICES,
    "recall": CHOICES,
}
