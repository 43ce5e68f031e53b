"""What a piano roll shows, whoever draws it: boxes and words with their colours, velocity as colour.

Systems stand under each other like those of a score, pitches in rows, the pedal below. Pillow's font is only measured
here, so that every picture breaks and cuts its words at the same places. Conventions: times in seconds, lengths in
pixels of the finished picture, y downwards, K bars.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from ritornello.notes import Piece, Seconds

if TYPE_CHECKING:
    from PIL import ImageFont

LEFT_PX, RIGHT_PX, HEADER_PX, STRIP_PX, AXIS_PX, PEDAL_PX, FOOT_PX = 52, 28, 78, 22, 24, 13, 10
MIN_WIDTH_PX, MIN_NOTE_PX, GAP_PX = 480, 3.0, 1.0
MAX_SYSTEMS = 30
TICKS_S = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 1800, 3600, 7200, 18000)
Colour = tuple[int, int, int]
Box = tuple[float, float, float, float, Colour]  # x0, y0, x1, y1

INSET_PX, EDGED_NOTE_PX = 1 / 3, 8.0
RAMP_PX, RAMP_STEP_PX, LABEL_PX = 228, 4, 14

# Magma reversed: lightness falls steadily with velocity, also for colour-blind eyes and in grey print.
RAMP_VELOCITY = (1, 33, 49, 64, 80, 96, 112, 127)
RAMP = np.frombuffer(bytes.fromhex("fdb27e fb9562 f4735c db4a68 b13579 812581 52137c 1a1042"), np.uint8).reshape(8, 3)
DYNAMICS = {"pp": 33, "p": 49, "mp": 64, "mf": 80, "f": 96, "ff": 112}

PAGE, INK, FAINT_INK, SPLIT, PEDAL = (251, 249, 245), (43, 40, 48), (120, 114, 122), (11, 114, 133), (132, 150, 172)
PAPER = {"white": (255, 255, 255), "black": (244, 241, 235), "line": (231, 226, 217), "octave": (205, 198, 186)}
PROMPT_PAPER = {"white": (236, 244, 248), "black": (224, 235, 241), "line": (208, 221, 229), "octave": (178, 196, 207)}
BLACK_KEYS = (1, 3, 6, 8, 10)


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


@dataclass(frozen=True)
class Words:
    """One line of text.

    Its anchor is Pillow's: left, middle or right of it at x, and its top, middle or base line (s) at y.
    """

    x: float
    y: float
    text: str
    size_px: int
    colour: Colour
    anchor: str


@dataclass(frozen=True)
class Roll:
    """One system's paper and music: boxes in layers from back to front, x in the picture, y from the roll's top."""

    paper: list[Box]
    ringing: list[Box]
    keys: list[Box]
    edges: list[Box]
    pedal: list[Box]

    def layers(self) -> tuple[list[Box], ...]:
        return self.paper, self.ringing, self.keys, self.edges, self.pedal


@dataclass(frozen=True)
class Scene:
    """A whole picture: one `Roll` per system, and around them lines and words at their places in the picture."""

    plan: Layout
    rolls: list[Roll]
    marks: list[Box]
    words: list[Words]


def scene(piece: Piece, plan: Layout, *, split_s: float | None, title: str) -> Scene:
    """What the picture of ``piece`` shows; ``title`` is one line, cut where it would meet the legend."""
    rolls = [Roll(_paper(plan, system, split_s or 0.0), [], [], [], []) for system in range(plan.systems)]
    _play(piece, plan, rolls)
    marks, words = _legend(plan)
    for system in range(plan.systems):
        marks += _axis_lines(plan, system)
        words += _axis_words(plan, system)
    words += _header(plan, title, piece, split_s)
    if split_s is not None:
        line, *labels = _split(plan, split_s)
        marks.append(line)
        words += labels
    if not len(piece):
        middle = plan.width_px / 2, plan.top(0) + plan.y(66)
        words.append(Words(*middle, "There are no notes in this piece.", 22, INK, "mm"))
    return Scene(plan, rolls, marks, words)


def velocity_colour(velocity: float) -> Colour:
    """The colour of a velocity, 1-127: the louder, the darker."""
    red, green, blue = (round(float(np.interp(velocity, RAMP_VELOCITY, RAMP[:, c]))) for c in range(3))
    return red, green, blue


def font(size_px: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    from PIL import ImageFont

    return ImageFont.load_default(size=size_px)


def _play(piece: Piece, plan: Layout, rolls: list[Roll]) -> None:
    """Puts the music on the paper: sound that only the pedal holds, keys, pedal."""
    y0 = [plan.y(int(p)) + INSET_PX for p in piece.pitch]
    high_px = plan.semitone_px - 2 * INSET_PX
    colours = [velocity_colour(float(v)) for v in piece.velocity]
    for i, system, x0, x1, _ in bars(piece.offset, np.maximum(piece.offset, piece.sounding_offset()), plan).tolist():
        y, colour = y0[int(i)], _mixed(colours[int(i)], PAGE, 0.8)
        rolls[int(system)].ringing.append((x0, y, x1 - GAP_PX, y + high_px, colour))
    for i, system, x0, x1, struck in note_bars(piece, plan).tolist():
        y, colour = y0[int(i)], colours[int(i)]
        rolls[int(system)].keys.append((x0, y, x1, y + high_px, colour))
        if struck and x1 - x0 >= EDGED_NOTE_PX:  # on a shorter bar the dark edge would pass for a louder note
            rolls[int(system)].edges.append((x0, y, x0 + 1, y + high_px, _mixed(colour, INK, 0.6)))
    for _, system, x0, x1, _ in bars(piece.pedals[:, 0], piece.pedals[:, 1], plan).tolist():
        rolls[int(system)].pedal.append((x0, plan.roll_px + 4, x1 - GAP_PX, plan.roll_px + 10, PEDAL))


def _mixed(a: Colour, b: Colour, part_of_b: float) -> Colour:
    red, green, blue = (round(x + (y - x) * part_of_b) for x, y in zip(a, b))
    return red, green, blue


def _paper(plan: Layout, system: int, split_s: float) -> list[Box]:
    begin, cut, end = (float(plan.x(t, system)) for t in (0.0, split_s, plan.total_s))
    return [*_sheet(plan, system, PROMPT_PAPER, begin, cut), *_sheet(plan, system, PAPER, cut, end)]


def _sheet(plan: Layout, system: int, paper: dict[str, Colour], x0: float, x1: float) -> Iterator[Box]:
    if x0 >= x1:
        return
    bottom = plan.roll_px + plan.pedal_px
    yield x0, 0, x1, bottom, paper["white"]
    for pitch in range(plan.low, plan.high + 1):
        y, below = plan.y(pitch), plan.y(pitch - 1)
        if pitch % 12 in BLACK_KEYS:
            yield x0, y, x1, below, paper["black"]
        if pitch % 12 == 0:
            yield x0, below - 1, x1, below, paper["octave"]
    for x, _ in ticks(plan, system):
        if x0 <= x < x1:
            yield x, 0, x + 1, bottom, paper["line"]
    if plan.pedal_px:
        yield x0, plan.roll_px, x1, plan.roll_px + 1, paper["octave"]


def _axis_lines(plan: Layout, system: int) -> Iterator[Box]:
    bottom = plan.bottom(system)
    yield LEFT_PX, bottom, float(plan.x(plan.total_s, system)) + 1, bottom + 1, FAINT_INK
    for x, _ in ticks(plan, system):
        yield x, bottom, x + 1, bottom + 5, FAINT_INK


def _axis_words(plan: Layout, system: int) -> Iterator[Words]:
    bottom = plan.bottom(system)
    for x, label in ticks(plan, system):
        yield Words(x, bottom + 6, label, 11, FAINT_INK, "mt")
    pedal_y = bottom - plan.pedal_px / 2
    for pitch in range(-(-plan.low // 12) * 12, plan.high + 1, 12):
        y = plan.top(system) + plan.y(pitch) + plan.semitone_px / 2
        clear_y = min(y, pedal_y - LABEL_PX) if plan.pedal_px else y
        yield Words(LEFT_PX - 8, clear_y, f"C{pitch // 12 - 1}", 11, FAINT_INK, "rm")
    if plan.pedal_px:
        yield Words(LEFT_PX - 8, pedal_y, "Ped.", 10, FAINT_INK, "rm")


def _split(plan: Layout, split_s: float) -> tuple[Box, Words, Words]:
    """The line between prompt and continuation, and its two labels."""
    system, measure = min(int(split_s // plan.row_s), plan.systems - 1), font(13)
    x, label_y = round(float(plan.x(split_s, system))), plan.top(system) - 5
    after = min(x + 7, plan.width_px - 4 - measure.getlength("continuation"))
    line = (x - 1, label_y + (5 if after < x + 7 else -13), x + 1, plan.bottom(system) + 1, SPLIT)
    before = max(min(x - 7, after - 14), 4 + measure.getlength("prompt"))
    return (
        line,
        Words(before, label_y, "prompt", 13, SPLIT, "rs"),
        Words(after, label_y, "continuation", 13, SPLIT, "ls"),
    )


def _header(plan: Layout, title: str, piece: Piece, split_s: float | None) -> Iterator[Words]:
    room_px = plan.width_px - RIGHT_PX - RAMP_PX - LEFT_PX - 24
    measure = font(26)
    while title and measure.getlength(title) > room_px:
        title = title.rstrip("…")[:-1].rstrip() + "…"
    notes = f"{len(piece):,} note" + ("" if len(piece) == 1 else "s")
    facts = [clock(piece.seconds), notes] + ([] if split_s is None else [f"prompt to {clock(split_s)}"])
    yield Words(LEFT_PX, 40, title, 26, INK, "ls")
    yield Words(LEFT_PX, 64, "  ·  ".join(facts), 15, FAINT_INK, "ls")


def _legend(plan: Layout) -> tuple[list[Box], list[Words]]:
    left = plan.width_px - RIGHT_PX - RAMP_PX
    boxes: list[Box] = []
    for x in range(0, RAMP_PX, RAMP_STEP_PX):
        colour = velocity_colour(1 + 126 * (x + RAMP_STEP_PX / 2) / RAMP_PX)
        boxes.append((left + x, 26, left + x + RAMP_STEP_PX, 38, colour))
    names = [
        Words(left + (velocity - 1) / 126 * (RAMP_PX - 1), 54, name, 13, FAINT_INK, "ms")
        for name, velocity in DYNAMICS.items()
    ]
    return boxes, names


def heading(piece: Piece, path: Path, title: str | None) -> str:
    """A picture's heading: what was asked for, else the piece's title, else the file's name."""
    return piece.title or path.stem if title is None else title
