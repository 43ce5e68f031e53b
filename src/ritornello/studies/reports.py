"""What is made of each study's runs: a report, its figures, its table and its curves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ritornello.studies import choices, choices_figures, figures, perceivers, perceivers_figures, summary, table
from ritornello.studies.results import Result

Results = list[Result]


class Report(NamedTuple):
    """How the runs of one study are shown."""

    markdown: Callable[[Results], str]
    figures: Callable[[Results], list[dict[str, Any]]]
    """one JSON-able dictionary for each row"""
    draw_table: Callable[[Results, Path], None]
    draw_curves: Callable[[Results, Path], None]


CHOICES = Report(choices.markdown, choices.figures, choices_figures.draw_table, choices_figures.draw_curves)
REPORTS = {
    "dsmr": Report(table.markdown, summary.figures_of_rows, figures.draw_table, figures.draw_curves),
    "perceivers": Report(
        perceivers.markdown, perceivers.figures, perceivers_figures.draw_table, perceivers_figures.draw_curves
    ),
    "training": CHOICES,
    "recall": CHOICES,
}
