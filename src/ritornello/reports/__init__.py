"""Generated sets of pieces beside a reference, from folders of MIDI files (or from pieces) to one page or one table.

Reading order: ``sets`` (folders to features, in worker processes), ``comparing`` (figures of every feature),
``results`` (what was found; typical and atypical pieces), ``table`` (several sets as Markdown), ``curves`` (their
repetition over time, drawn), ``pictures`` (inline SVG), ``html`` (the page of one set).
"""

from ritornello.reports.comparing import compare_folders, compare_pieces
from ritornello.reports.curves import draw_repetition
from ritornello.reports.html import page
from ritornello.reports.results import Comparison
from ritornello.reports.table import markdown

__all__ = ["Comparison", "compare_folders", "compare_pieces", "draw_repetition", "markdown", "page"]
