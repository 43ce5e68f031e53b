"""Charts of figures: one look for all of them, written as PNG or SVG by the file's ending.

Matplotlib is used only here, through its objects (no global state), and imported when a chart is drawn.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from ritornello.errors import RitornelloError
from ritornello.files import whole_file

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PAPER, INK, FAINT, GRID = "#fbf9f5", "#2b2830", "#78727a", "#e2ddd3"
# As many as the memory study has rows. The first four differ in lightness too, each lighter than the one before.
COLOURS = (
    *("#1a1042", "#0b7285", "#d0453a", "#c77d0a", "#5f8b3c", "#8a4fa3"),
    *("#8494ac", "#a0522d", "#3b5bdb", "#495057", "#3cc0a8", "#e07aa8"),
)


def new_figure(width_in: float, height_in: float) -> Figure:
    """An empty figure in the house's look, to be filled with ``figure.subplots()`` and given to `save`.

    Raises:
        RitornelloError: where matplotlib is not installed.
    """
    try:
        from matplotlib import rcParams, rcsetup
        from matplotlib.figure import Figure
    except ModuleNotFoundError:
        raise RitornelloError("a chart needs matplotlib; install it with: pip install 'ritornello[charts]'") from None
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
    rcParams.update(look)
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
