"""The little of SVG that the page's pictures need: one pair of axes with lines, areas and bars, as text.

Positions are data; each `Panel` maps them to its own pixels, y upwards. Colours and fonts are the page's CSS classes.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from html import escape

import numpy as np
from numpy.typing import ArrayLike, NDArray

LEFT_PX, RIGHT_PX, TOP_PX, BOTTOM_PX = 44, 12, 10, 36
STEPS = (1.0, 2.0, 2.5, 5.0, 10.0)
WANTED_TICKS = 4


class Panel:
    """One chart that is filled by its methods and read by `svg`."""

    def __init__(
        self, label: str, x: tuple[float, float], y: tuple[float, float], *, width_px: int = 300, height_px: int = 190
    ) -> None:
        self.label, self.width_px, self.height_px = label, width_px, height_px
        self.x, self.y = (apart(*x), apart(*y))
        self._parts: list[str] = []

    def px(self, x: ArrayLike) -> NDArray[np.float64]:
        low, high = self.x
        return LEFT_PX + (np.asarray(x, np.float64) - low) / (high - low) * (self.width_px - LEFT_PX - RIGHT_PX)

    def py(self, y: ArrayLike) -> NDArray[np.float64]:
        low, high = self.y
        inside = np.clip(np.asarray(y, np.float64), low, high)
        return self.height_px - BOTTOM_PX - (inside - low) / (high - low) * (self.height_px - TOP_PX - BOTTOM_PX)

    def line(self, x: ArrayLike, y: ArrayLike, name: str) -> None:
        self._parts.append(f'<polyline class="line {name}" points="{_points(self.px(x), self.py(y))}"/>')

    def area(self, x: ArrayLike, low: ArrayLike, high: ArrayLike, name: str) -> None:
        """What lies between two lines over the same ``x``."""
        across = self.px(x)
        there, back = _points(across, self.py(high)), _points(across[::-1], self.py(low)[::-1])
        self._parts.append(f'<polygon class="area {name}" points="{there} {back}"/>')

    def dots(self, x: ArrayLike, y: ArrayLike, name: str) -> None:
        for across, down in zip(self.px(x).tolist(), self.py(y).tolist()):
            self._parts.append(f'<circle class="fill {name}" cx="{across:.1f}" cy="{down:.1f}" r="3"/>')

    def bars(self, left: ArrayLike, right: ArrayLike, height: ArrayLike, name: str) -> None:
        floor = float(self.py(self.y[0]))
        for x0, x1, top in zip(self.px(left).tolist(), self.px(right).tolist(), self.py(height).tolist()):
            size = f'width="{max(x1 - x0, 0.5):.1f}" height="{floor - top:.1f}"'
            self._parts.append(f'<rect class="bar {name}" x="{x0:.1f}" y="{top:.1f}" {size}/>')

    def x_axis(self, title: str, ticks: Iterable[tuple[float, str]] | None = None) -> None:
        """A titled axis; ticks are (place, text), or round numbers if not given."""
        below = self.height_px - BOTTOM_PX
        self._parts.append(
            f'<path class="axis" d="M{LEFT_PX} {below}H{self.width_px - RIGHT_PX}"/>'
            f'<text class="title" x="{(self.width_px + LEFT_PX - RIGHT_PX) / 2:g}" y="{self.height_px - 4}">'
            f"{escape(title)}</text>"
        )
        for place, text in round_ticks(*self.x) if ticks is None else ticks:
            self._parts.append(f'<text class="tick mid" x="{float(self.px(place)):.1f}" y="{below + 14}">{text}</text>')

    def y_axis(self) -> None:
        for place, text in round_ticks(*self.y):
            y = float(self.py(place))
            self._parts.insert(0, f'<path class="grid" d="M{LEFT_PX} {y:.1f}H{self.width_px - RIGHT_PX}"/>')
            self._parts.append(f'<text class="tick end" x="{LEFT_PX - 6}" y="{y + 4:.1f}">{text}</text>')

    def svg(self) -> str:
        return svg(self.label, self.width_px, self.height_px, self._parts)


def svg(label: str, width_px: int, height_px: int, parts: Sequence[str], name: str = "chart") -> str:
    """An inline picture that scales with the page; ``label`` is what a screen reader says."""
    return (
        f'<svg class="{name}" viewBox="0 0 {width_px} {height_px}" role="img" aria-label="{escape(label)}">'
        f"{''.join(parts)}</svg>"
    )


def round_ticks(low: float, high: float) -> list[tuple[float, str]]:
    """A few round numbers from ``low`` to ``high``, with their texts."""
    raw = (high - low) / WANTED_TICKS
    power = 10.0 ** math.floor(math.log10(raw))
    step = power * next(s for s in STEPS if s * power >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [(i * step, f"{i * step:.6g}") for i in range(first, last + 1)]


def apart(low: float, high: float) -> tuple[float, float]:
    """Both limits, or where they are (all but) the same, half a unit to each side."""
    return (low, high) if high - low > 1e-9 * max(abs(low), abs(high), 1e-3) else (low - 0.5, high + 0.5)


def _points(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    return " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x.tolist(), y.tolist()))
