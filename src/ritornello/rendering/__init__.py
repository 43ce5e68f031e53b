"""What one likes to look at and to hear: piano rolls and sound, a format a file, named by the ending of what it writes.

A format has ``write(piece, path, *, split_s)``; its docstring opens with what a verb's option says of it. ``scene`` is
what is drawn, and where: ``png`` and ``svg`` write the same one; ``wav`` plays.
"""

import pkgutil
from importlib import import_module
from types import ModuleType

from ritornello.rendering.png import picture
from ritornello.rendering.png import write as piano_roll
from ritornello.rendering.scene import SPLIT, Layout, layout, note_bars, velocity_colour
from ritornello.rendering.svg import write as piano_roll_svg

__all__ = ["SPLIT", "Layout", "formats", "layout", "note_bars", "piano_roll", "piano_roll_svg", "picture"]
__all__ += ["velocity_colour"]


def formats() -> dict[str, ModuleType]:
    """Every format by its name."""
    files = {file.name: import_module(f"{__name__}.{file.name}") for file in pkgutil.iter_modules(__path__)}
    return {name: file for name, file in files.items() if hasattr(file, "write")}
