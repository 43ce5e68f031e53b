"""Where everything of a piano roll is: systems under each other like a score, pitches in rows, the pedal below.

Conventions: times in seconds, lengths in pixels of the finished picture, y downwards, K bars.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ritornello.notes import Piece, Seconds

LEFT_PX, RIGHT_PX, HEADER_PX, STRIP_PX, AXIS_PX, PEDAL_PX, FOOT_PX = 52, 28, 78, 22, 24, 13, 10
MIN_WIDTH_PX, MIN_NOTE_PX, GAP_PX = 480, 3.0, 1.0
MAX_SYSTEMS = 30
TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000)


@dataclass(frozen=True)
class Layout:
    """Where everything is. System i shows the times from i * row_s to (i + 1) * row_s, the last one less."""

    width_px: int
    total_s: float  # the time axis ends here
    row_s: float  # shown by one full system
    systems: int
    low: int  # lowest MIDI pitch drawn
    high: int  # highest, included
    semitone_px: int
    pedal_px: int  # 0 without a pedal lane

    @property
    def roll_px(self) -> int:
        return (self.high - self.low + 1) * self.semitone_px

    @property
    def height_px(self) -> int:
        return self.bottom(self.systems - 1) + AXIS_PX + FOOT_PX

    def top(self, system: int) -> int:
        """The y where a system's roll begins."""
        return HEADER_PX + STRIP_PX + system * (STRIP_PX + self.roll_px + self.pedal_px + AXIS_PX)

    def bottom(self, system: int) -> int:
        """The y of a system's time axis, below roll and pedal lane."""
        return self.top(system) + self.roll_px + self.pedal_px

    def y(self, pitch: int) -> int:
        """Where a pitch's row begins, counted from its system's `top`; it is ``semitone_px`` high."""
        return (self.high - pitch) * self.semitone_px

    def x(self, time_s: Seconds | float, system: Seconds | int) -> Seconds:
        """The x of a time in a system; one outside the system lies on its border."""
        right = np.minimum(self.total_s / self.row_s - system, 1)
        across = np.clip(np.divide(time_s, self.row_s) - system, 0, right)
        return np.asarray(LEFT_PX + across * (self.width_px - LEFT_PX - RIGHT_PX))


def layout(piece: Piece, *, split_s: float | None = None, width_px: int = 1600) -> Layout:
    """The layout for a piece: one system up to 45 s, else systems of 25 to 60 s (longer past half an hour).

    Raises:
        ValueError: if ``width_px`` is below 480, or ``split_s`` is negative or not finite.
    """
    if width_px < MIN_WIDTH_PX:
        raise ValueError(f"width_px is {width_px}; a piano roll needs at least {MIN_WIDTH_PX}")
    if split_s is not None and not 0 <= split_s < np.inf:
        raise ValueError(f"split_s is {split_s}; it must be a time in seconds, 0 or more")
    total_s = max(float(np.ceil(max(piece.seconds, split_s or 0.0))), 4.0)
    row_s, systems = _rows(total_s)
    low, high = _register(piece.pitch)
    semitone_px = int(np.clip(1500 // (systems * (high - low + 1)), 4, 9))
    return Layout(width_px, total_s, row_s, systems, low, high, semitone_px, PEDAL_PX if len(piece.pedals) else 0)


def _rows(total_s: float) -> tuple[float, int]:
    """Seconds per system and number of systems: about eight systems of 30 to 60 s, evenly filled."""
    if total_s <= 45:
        return total_s, 1
    wanted = min(int(np.ceil(total_s / np.clip(total_s / 8, 30, 60))), MAX_SYSTEMS)
    row_s = float(np.ceil(total_s / wanted / 5) * 5)
    return row_s, int(np.ceil(total_s / row_s))


def _register(pitch: NDArray[np.integer]) -> tuple[int, int]:
    """Lowest and highest pitch to draw: those used and two more on each side, at least two octaves."""
    low, high = (int(pitch.min()) - 2, int(pitch.max()) + 2) if len(pitch) else (48, 72)
    low = int(np.clip(low - max(24 - (high - low), 0) // 2, 0, 127 - 24))
    return low, min(max(high, low + 24), 127)


def bars(start_s: Seconds, end_s: Seconds, plan: Layout) -> Seconds:
    """Spans cut at the systems' ends: (K, 5) rows of span index, system, x0, x1 (px), and 1 where the span begins."""
    first = np.clip(start_s // plan.row_s, 0, plan.systems - 1).astype(int)
    last = np.clip(np.ceil(end_s / plan.row_s).astype(int) - 1, first, plan.systems - 1)
    count = last - first + 1
    span = np.repeat(np.arange(len(start_s)), count)
    nth = np.arange(len(span)) - np.repeat(np.cumsum(count) - count, count)
    system = first[span] + nth
    return np.stack([span, system, plan.x(start_s[span], system), plan.x(end_s[span], system), nth == 0], axis=1)


def note_bars(piece: Piece, plan: Layout) -> Seconds:
    """The `bars` of the keys held down: at least 3 px wide, but with a gap before the next strike of the same key."""
    order = np.lexsort((piece.onset, piece.pitch))
    same = np.diff(piece.pitch[order].astype(int)) == 0
    again_s = np.full(len(order), np.inf)
    again_s[order[:-1][same]] = piece.onset[order[1:][same]]
    boxes = bars(piece.onset, np.minimum(piece.offset, again_s), plan)
    span, system, x0, x1 = boxes[:, 0].astype(int), boxes[:, 1], boxes[:, 2], boxes[:, 3]
    here = again_s[span] < (system + 1) * plan.row_s
    limit = np.where(here, plan.x(again_s[span], system) - GAP_PX, np.inf)
    boxes[:, 3] = np.maximum(np.minimum(np.maximum(x1, x0 + MIN_NOTE_PX), limit), x0 + GAP_PX)
    return boxes


def ticks(plan: Layout, system: int) -> list[tuple[float, str]]:
    """The x and the label of each tick of a system's time axis."""
    pixels_per_s = float(plan.x(plan.row_s, 0) - LEFT_PX) / plan.row_s
    step_s = next((s for s in TICKS_S if s * pixels_per_s >= 64), TICKS_S[-1])
    first, end_s = -int(-system * plan.row_s // step_s) * step_s, min((system + 1) * plan.row_s, plan.total_s)
    return [(float(plan.x(t, system)), clock(t)) for t in range(first, int(end_s) + 1, step_s)]


def clock(time_s: float) -> str:
    """minutes:seconds, rounded to the nearest second: 61.9 -> 1:02."""
    return f"{round(time_s) // 60}:{round(time_s) % 60:02d}"
