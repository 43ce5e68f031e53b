"""A generated set of pieces beside a reference, from two folders of MIDI files to one page.

Reading order: ``sets`` (folders to features, in worker processes), ``comparing`` (figures of every feature, typical
and atypical pieces), ``pictures`` (inline SVG), ``html`` (the page).
"""

from ritornello.reports.comparing import Comparison, compare_folders
from ritornello.reports.html import page

__all__ = ["Comparison", "compare_folders", "page"]
