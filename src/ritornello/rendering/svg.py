"""A piano roll, as vector graphics.

The same scene as the PNG, sharp at any size, with one path for all bars of a colour.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from html import escape
from pathlib import Path

from ritornello.files import whole_file
from ritornello.notes import Piece
from ritornello.rendering.scene import PAGE, Box, Colour, Words, heading, layout, scene

MAX_TITLE = 200
ANCHOR = {"l": "start", "m": "middle", "r": "end"}
BASE_LINE = {"s": 0.0, "m": 0.36, "t": 0.75}  # below the anchor, in parts of the letters' size


def write(
    piece: Piece, path: str | Path, *, split_s: float | None = None, title: str | None = None, width_px: int = 1600
) -> None:
    """Draws a piece as an SVG piano roll, written whole or not at all; arguments and errors are `png.write`'s."""
    path = Path(path)
    text = svg(piece, split_s=split_s, title=heading(piece, path, title), width_px=width_px)
    with whole_file(path) as file:
        file.write(text.encode())


def svg(piece: Piece, *, split_s: float | None = None, title: str = "", width_px: int = 1600) -> str:
    """The piano roll as an SVG document; arguments and errors are those of `png.write`."""
    plan = layout(piece, split_s=split_s, width_px=width_px)
    # One short line without what XML may not hold: control characters and lone surrogates.
    title = "".join(c for c in " ".join(title.split()) if c.isprintable())[:MAX_TITLE]
    shown = scene(piece, plan, split_s=split_s, title=title)
    size = f'width="{plan.width_px}" height="{plan.height_px}" viewBox="0 0 {plan.width_px} {plan.height_px}"'
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" {size} role="img">',
        f"<title>{escape(title or 'Piano roll', quote=False)}</title>",
        f'<path fill="{_colour(PAGE)}" d="M0 0h{plan.width_px}v{plan.height_px}H0z"/>',
    ]
    systems = zip(*(_lowered(roll.layers(), plan.top(system)) for system, roll in enumerate(shown.rolls)))
    for depth, layer in enumerate(systems):
        sharp = ' shape-rendering="crispEdges"' if depth == 0 else ""
        parts += [f"<g{sharp}>", *_paths(box for boxes in layer for box in boxes), "</g>"]
    parts += ['<g shape-rendering="crispEdges">', *_paths(shown.marks), "</g>"]
    parts += ["<g font-family=\"system-ui, 'Helvetica Neue', Arial, sans-serif\">", *map(_text, shown.words), "</g>"]
    return "\n".join([*parts, "</svg>", ""])


def _lowered(layers: Iterable[list[Box]], by_px: float) -> Iterator[list[Box]]:
    """A roll's boxes at their places in the picture."""
    for boxes in layers:
        yield [(x0, y0 + by_px, x1, y1 + by_px, colour) for x0, y0, x1, y1, colour in boxes]


def _paths(boxes: Iterable[Box]) -> Iterator[str]:
    """One path per colour, in the order in which the colours first come: boxes of one layer never cover each other."""
    drawn: dict[Colour, list[str]] = {}
    for x0, y0, x1, y1, colour in boxes:
        if x1 > x0:
            wide, high = _number(x1 - x0), _number(y1 - y0)
            drawn.setdefault(colour, []).append(f"M{_number(x0)} {_number(y0)}h{wide}v{high}h-{wide}z")
    for colour, outlines in drawn.items():
        yield f'<path fill="{_colour(colour)}" d="{"".join(outlines)}"/>'


def _text(words: Words) -> str:
    y = words.y + BASE_LINE[words.anchor[1]] * words.size_px
    place = f'x="{_number(words.x)}" y="{_number(y)}" text-anchor="{ANCHOR[words.anchor[0]]}"'
    text = escape(words.text, quote=False)
    return f'<text {place} font-size="{words.size_px}" fill="{_colour(words.colour)}">{text}</text>'


def _number(value: float) -> str:
    return f"{value:.1f}".removesuffix(".0")


def _colour(colour: Colour) -> str:
    return "#" + bytes(colour).hex()
