"""A piano roll, as a PNG picture."""

from __future__ import annotations

import unicodedata
from pathlib import Path
from typing import TYPE_CHECKING

from ritornello.files import whole_file
from ritornello.notes import Piece
from ritornello.rendering.scene import PAGE, Box, Layout, Roll, font, heading, layout, scene

if TYPE_CHECKING:
    from PIL import Image, ImageDraw

SMOOTH = 3  # a roll is drawn this many times larger, then averaged


def write(
    piece: Piece, path: str | Path, *, split_s: float | None = None, title: str | None = None, width_px: int = 1600
) -> None:
    """Draws a piece as a PNG piano roll, written whole or not at all.

    Args:
        piece: what to draw. Bars last as long as keys were held, with a pale tail for as long as the pedal keeps the
            sound. A piece without notes gives a picture that says so.
        path: the PNG file; an existing one is replaced.
        split_s: where a prompt ends and its continuation begins, in seconds.
        title: the heading; if None the piece's title, or the file's name for a piece without one.
        width_px: the picture's width; its height follows from the piece.

    Raises:
        RitornelloError: if the file cannot be written.
        ValueError: if ``width_px`` is below 480, or ``split_s`` is negative or not finite.
    """
    title = heading(piece, Path(path), title)
    drawn = picture(piece, split_s=split_s, title=title, width_px=width_px)
    with whole_file(path) as file:
        drawn.save(file, "PNG")


def picture(piece: Piece, *, split_s: float | None = None, title: str = "", width_px: int = 1600) -> Image.Image:
    """The piano roll as an RGB image; arguments and errors are those of `write`."""
    from PIL import Image, ImageDraw

    plan = layout(piece, split_s=split_s, width_px=width_px)
    shown = scene(piece, plan, split_s=split_s, title=_printable(title))
    image = Image.new("RGB", (plan.width_px, plan.height_px), PAGE)
    draw = ImageDraw.Draw(image)
    for system, roll in enumerate(shown.rolls):
        image.paste(_drawn(plan, roll), (0, plan.top(system)))
    for box in shown.marks:
        _fill(draw, box, 1)
    for words in shown.words:
        draw.text((words.x, words.y), words.text, words.colour, font(words.size_px), words.anchor)
    return image


def _drawn(plan: Layout, roll: Roll) -> Image.Image:
    from PIL import Image, ImageDraw

    image = Image.new("RGB", (plan.width_px * SMOOTH, (plan.roll_px + plan.pedal_px) * SMOOTH), PAGE)
    draw = ImageDraw.Draw(image)
    for layer in roll.layers():
        for box in layer:
            _fill(draw, box, SMOOTH)
    return image.reduce(SMOOTH)


def _fill(draw: ImageDraw.ImageDraw, box: Box, scale: int) -> None:
    *corners, colour = box
    left, top, right, bottom = (round(v * scale) for v in corners)
    if right > left and bottom > top:
        draw.rectangle((left, top, right - 1, bottom - 1), colour)


def _printable(text: str) -> str:
    """One short line in the letters that Pillow's own font has: accents folded, others shown as a question mark."""
    plain = unicodedata.normalize("NFKD", text.replace("ß", "ss").replace("ø", "o").replace("ł", "l"))
    letters = "".join(c for c in plain if not unicodedata.combining(c))
    return " ".join(letters.encode("ascii", "replace").decode().split())[:200]
