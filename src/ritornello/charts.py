"""Charts of figures: one look for all of them, written as PNG or SVG by the file's ending.

Matplotlib is used only here, through its objects, under settings that end with the chart; it is imported when one is
drawn.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import wraps
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any, ParamSpec, TypeVar

from ritornello.errors import RitornelloError, needing
from ritornello.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

P = ParamSpec("P")
T = TypeVar("T")

PAPER, STRIPE, INK, FAINT, GRID = "#fbf9f5", "#f1ede3", "#2b2830", "#78727a", "#e2ddd3"
# As many as the memory study has rows. The first four differ in lightness too, each lighter than the one before.
COLOURS = (
    *("#1a1042", "#0b7285", "#d0453a", "#c77d0a", "#5f8b3c", "#8a4fa3"),
    *("#8494ac", "#a0522d", "#3b5bdb", "#495057", "#3cc0a8", "#e07aa8"),
)


def needs_matplotlib() -> None:
    """Raises RitornelloError, saying what to install, where charts cannot be drawn."""
    with needing("a chart", "'ritornello[charts]'"):
        import matplotlib  # noqa: F401


def in_house_look(draw: Callable[P, T]) -> Callable[P, T]:
    """A function that makes a figure and saves it, under the house's settings of matplotlib; others see theirs.

    Raises:
        RitornelloError: where matplotlib is not installed.
    """

    @wraps(draw)
    def drawn(*arguments: P.args, **named: P.kwargs) -> T:
        needs_matplotlib()
        from matplotlib import rc_context, rcsetup

        look: Any = {
            "font.size": 10,
            "axes.edgecolor": FAINT,
            "axes.labelcolor": INK,
            "axes.titlesize": 11,
            "axes.titlelocation": "left",
            "axes.titlecolor": INK,
            "axes.spines.top": False,
            "axes.spines.right": False,
            "axes.grid": True,
            "axes.axisbelow": True,
            "axes.prop_cycle": rcsetup.cycler("color", COLOURS),
            "axes.facecolor": PAPER,
            "grid.color": GRID,
            "xtick.color": FAINT,
            "ytick.color": FAINT,
            "text.color": INK,
            "legend.frameon": False,
            "figure.facecolor": PAPER,
        }
        with rc_context(look):
            return draw(*arguments, **named)

    return drawn


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure, to be filled with ``figure.subplots()`` and given to `save`, all of it `in_house_look`."""
    from matplotlib.figure import Figure

    return Figure(figsize=(width_in, height_in), layout="constrained", dpi=150)


def save(figure: Figure, path: Path) -> None:
    """Writes a figure whole or not at all; its ending says how: .png or .svg.

    Raises:
        RitornelloError: for another ending, or a place that cannot be written.
    """
    ending = path.suffix.lower()
    if ending not in (".png", ".svg"):
        raise RitornelloError(f"{path}: charts are written as .png or .svg; name such a file")
    with whole_file(path) as file:
        figure.savefig(file, format=ending[1:], metadata={"Date": None} if ending == ".svg" else None)


def svg(figure: Figure) -> bytes:
    """A figure for a page, its words as text."""
    from matplotlib import rc_context

    content = BytesIO()
    with rc_context({"svg.fonttype": "none", "font.family": "sans-serif"}):
        figure.savefig(content, format="svg", metadata={"Date": None})
    return content.getvalue()
