"""What one likes to look at and to hear: piano rolls as PNG and SVG, and sound (`sound`, imported by itself).

``geometry`` says where things are, ``scene`` what is drawn there, ``png`` and ``svg`` write the same scene.
"""

from ritornello.rendering.geometry import Layout, layout, note_bars
from ritornello.rendering.png import piano_roll, picture
from ritornello.rendering.scene import SPLIT, velocity_colour
from ritornello.rendering.svg import piano_roll_svg

__all__ = ["SPLIT", "Layout", "layout", "note_bars", "piano_roll", "piano_roll_svg", "picture", "velocity_colour"]
