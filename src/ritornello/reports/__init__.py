"""Generated sets of pieces beside a reference, from folders of MIDI files (or from pieces) to one page or one table.

Reading order: ``sets`` (folders to features, in worker processes), ``comparison`` (figures of every feature; typical
and atypical pieces), ``table`` (several sets as Markdown), ``pictures`` (all charts), ``html`` (the page of one set).
"""

from ritornello.reports.comparison import Comparison, compare_folders, compare_pieces
from ritornello.reports.html import page
from ritornello.reports.pictures import draw_repetition
from ritornello.reports.table import markdown

__all__ = ["Comparison", "compare_folders", "compare_pieces", "draw_repetition", "markdown", "page"]
