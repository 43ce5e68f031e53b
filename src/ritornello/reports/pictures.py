"""What the page draws: overlap bars, distances, values, curves of repetition and structure, piano rolls.

The reference is always the class ``reference``, the generated set ``generated``, what is between them ``inter``.
"""

from __future__ import annotations

import base64
from collections.abc import Iterable
from html import escape
from io import BytesIO

import numpy as np
from numpy.typing import NDArray

from ritornello.metrics import DURATIONS_S, repetition_band, repetition_mean
from ritornello.metrics.durations import LENGTH_CLASSES, UNITS_PER_S
from ritornello.metrics.repetition import BAND, BAND_PIECES, WINDOW_US, RepetitionCurve
from ritornello.notes import Piece
from ritornello.rendering import picture
from ritornello.reports.drawing import Panel, apart, svg
from ritornello.reports.results import Comparison, Result

Floats = NDArray[np.float64]
Ticks = list[tuple[float, str]]
BAR_PX, BAR_HIGH_PX, ROW_PX, DOT_PX = 150, 34, 17, 4
HISTOGRAM_BINS = 24
MOST_ENTRIES = 64  # of a profile; more are a map
FEW = 12  # entries of a curve, which are then shown as dots too
ROLL_PX, WIDE_PX = 800, 420
PITCH_CLASSES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")
LENGTH_ORDER = np.argsort(LENGTH_CLASSES)
SETS = ("reference", "generated")


def overlap_bar(result: Result) -> str:
    """Both overlap areas from 0 to 1: the null's band, the interval as a line, the score as a dot."""
    parts = []
    for row, name in enumerate(SETS):
        figures = result.figures[f"oa_{name}"]
        y = ROW_PX * row + ROW_PX / 2
        places = np.array([*figures["interval"], figures["score"], *figures["null"]])
        low, high, score, null_low, _, null_high = (DOT_PX + places * (BAR_PX - 2 * DOT_PX)).tolist()
        band = null_high - null_low + 2  # so that a band without width is seen
        parts.append(
            f'<path class="grid" d="M0 {y}H{BAR_PX}"/>'
            f'<rect class="null" x="{null_low - 1:.1f}" y="{y - 6}" width="{band:.1f}" height="12"/>'
            f'<path class="line {name}" d="M{low:.1f} {y}H{high:.1f}"/>'
            f'<circle class="fill {name}" cx="{score:.1f}" cy="{y}" r="{DOT_PX}"/>'
        )
    scores = " and ".join(f"{result.figures[f'oa_{name}']['score']:.2f}" for name in SETS)
    return svg(f"{result.feature.name}: overlap areas {scores}", BAR_PX, BAR_HIGH_PX, parts, "overlap")


def distances(result: Result) -> str:
    """Densities of the distances within and between the sets."""
    at, *densities = result.curves
    panel = Panel(
        f"{result.feature.name}: densities of distances",
        (float(at[0]), float(at[-1])),
        (0, max(float(density.max()) for density in densities)),
    )
    for name, density in zip((*SETS, "inter"), densities):
        panel.area(at, np.zeros(len(at)), density, name)
        panel.line(at, density, name)
    panel.x_axis(f"distance in {result.feature.unit}")
    return panel.svg()


def about_values(result: Result) -> str:
    """What `values` draws upwards, or as darkness."""
    entries = result.reference.shape[1]
    if entries == 1:
        return "share of the pieces"
    return f"mean {result.feature.unit}" if entries <= MOST_ENTRIES else "mean of each entry"


def values(result: Result) -> str:
    """A histogram over the pieces for one number a piece, mean profiles for a row of them, maps for a matrix."""
    entries = result.reference.shape[1]
    if entries == 1:
        return _histogram(result)
    return _profile(result) if entries <= MOST_ENTRIES else _maps(result)


def _histogram(result: Result) -> str:
    sets = (result.reference[:, 0], result.generated[:, 0])
    pooled = np.concatenate(sets)
    edges = np.linspace(*apart(float(pooled.min()), float(pooled.max())), HISTOGRAM_BINS + 1)
    shares = [np.histogram(side, edges)[0] / len(side) for side in sets]
    panel = Panel(
        f"{result.feature.name}: histogram of values",
        (float(edges[0]), float(edges[-1])),
        (0, max(float(share.max()) for share in shares)),
    )
    panel.y_axis()
    for name, share in zip(SETS, shares):
        panel.bars(edges[:-1], edges[1:], share, name)
    panel.x_axis(result.feature.unit)
    return panel.svg()


def _profile(result: Result) -> str:
    order, ticks, title = _entries(result)
    means = [side.mean(axis=0)[order] for side in (result.reference, result.generated)]
    at = np.arange(len(order))
    bottom = min(0.0, *(float(mean.min()) for mean in means))
    panel = Panel(
        f"{result.feature.name}: mean of each entry", (0, len(at) - 1), (bottom, max(float(m.max()) for m in means))
    )
    panel.y_axis()
    for name, mean in zip(SETS, means):
        panel.line(at, mean, name)
        if len(at) <= FEW:
            panel.dots(at, mean, name)
    panel.x_axis(title, ticks)
    return panel.svg()


def _entries(result: Result) -> tuple[NDArray[np.integer], Ticks, str]:
    """In which order a profile's entries are drawn, its ticks, and what they are."""
    n = result.reference.shape[1]
    if result.feature.name in ("NLH", "note_length_hist"):
        texts = [f"{length / UNITS_PER_S:.3g}" for length in LENGTH_CLASSES[LENGTH_ORDER]]
        return LENGTH_ORDER, _numbered(texts)[1::2], "note length in s"
    if result.feature.name == "structure_curve":
        return np.arange(n), _numbered(map(str, DURATIONS_S)), "length of the segment in s"
    if n == 12:
        return np.arange(n), _numbered(PITCH_CLASSES), "pitch class"
    if result.feature.name == "velocity_histogram":
        return np.arange(n), [(velocity / 4, str(velocity)) for velocity in (1, 32, 64, 96, 124)], "velocity"
    return np.arange(n), [(0, "1"), (n // 2 - 1, str(n // 2)), (n - 1, str(n))], "segment of the piece"


def _numbered(texts: Iterable[str]) -> Ticks:
    return [(float(place), text) for place, text in enumerate(texts)]


def _maps(result: Result) -> str:
    """The two means of a matrix with 12 columns side by side, on one scale of darkness."""
    means = [side.mean(axis=0).reshape(-1, 12).T for side in (result.reference, result.generated)]
    rows = means[0].shape[1]
    most = max(float(mean.max()) for mean in means) or 1.0
    width, height = 176 / rows, 176 / 12
    parts = []
    for side, (name, mean) in enumerate(zip(SETS, means)):
        left = 196 * side
        parts.append(f'<rect class="paper" x="{left}" y="0" width="176" height="176"/>')
        parts.append(f'<text class="title" x="{left + 88}" y="194">{name}</text>')
        for y, x in zip(*np.nonzero(mean > most / 100)):
            box = f'x="{left + x * width:.1f}" y="{y * height:.1f}" width="{width:.2f}" height="{height:.2f}"'
            parts.append(f'<rect class="fill {name}" {box} opacity="{mean[y, x] / most:.2f}"/>')
    return svg(f"{result.feature.name}: mean of each entry", 372, 200, parts)


def repetition_curves(comparison: Comparison) -> dict[str, str]:
    """Near and far -> shares of notes that repeat over time; the band holds 90% of the reference's pieces."""
    sides = [[m.repetition for m in side.measured] for side in (comparison.reference, comparison.generated)]
    means = [repetition_mean(curves) for curves in sides]
    band = repetition_band(sides[0]) if len(sides[0]) >= BAND_PIECES else None
    panels = {}
    for kind, name in enumerate(RepetitionCurve._fields):
        windows = max(len(mean[kind]) for mean in means)
        top = max(float(mean[kind].max()) for mean in means)
        if band is not None:
            top = max(top, float(band[kind][1].max()))
        panel = Panel(
            f"{name} repetition over time", (0, windows * WINDOW_US / 6e7), (0, max(top, 0.05)), width_px=WIDE_PX
        )
        panel.y_axis()
        if band is not None:
            low, high = band[kind]
            panel.area(_minutes(band.near.shape[1]), low, high, "band")
        for side, mean in zip(SETS, means):
            panel.line(_minutes(len(mean[kind])), mean[kind], side)
            if windows <= FEW:
                panel.dots(_minutes(len(mean[kind])), mean[kind], side)
        panel.x_axis("minutes into the piece; height is the share of notes")
        panels[name] = panel.svg()
    return panels


def _minutes(windows: int) -> Floats:
    """The middle of each window."""
    return (np.arange(windows, dtype=np.float64) + 0.5) * (WINDOW_US / 6e7)


def structure_curves(result: Result) -> str:
    """Fitness by scale: mean of both sets, and the band that holds 90% of the reference's pieces."""
    at = np.arange(len(DURATIONS_S))
    low, high = np.quantile(result.reference, BAND, axis=0)
    means = [side.mean(axis=0) for side in (result.reference, result.generated)]
    top = max(float(line.max()) for line in (high, *means))
    panel = Panel("structure by scale", (0, len(at) - 1), (0, top), width_px=WIDE_PX)
    panel.y_axis()
    panel.area(at, low, high, "band")
    for name, mean in zip(SETS, means):
        panel.line(at, mean, name)
        panel.dots(at, mean, name)
    panel.x_axis("length of the segment in s; height is its fitness", _numbered(map(str, DURATIONS_S)))
    return panel.svg()


def piano_roll(piece: Piece, title: str) -> str:
    """A piano roll as an image inside the page."""
    png = BytesIO()
    picture(piece, title=title, width_px=ROLL_PX).save(png, "PNG", optimize=True)
    data = base64.b64encode(png.getvalue()).decode()
    return f'<img class="roll" alt="Piano roll of {escape(title)}" src="data:image/png;base64,{data}">'
