"""Charts of a comparison: distances and values of a feature, repetition over time, structure by scale, piano rolls."""

from __future__ import annotations

import base64
from collections.abc import Mapping
from html import escape
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello.charts import COLOURS, FAINT, in_house_look, new_figure, save, svg
from ritornello.metrics.comparison import pairwise
from ritornello.metrics.densities import Distances
from ritornello.metrics.durations import LENGTH_CLASSES, UNITS_PER_S
from ritornello.metrics.repetition import (
    BAND,
    BAND_PIECES,
    WINDOW_US,
    RepetitionCurve,
    repetition_band,
    repetition_mean,
)
from ritornello.metrics.segments import SEGMENTS
from ritornello.metrics.structure import DURATIONS_S
from ritornello.notes import Piece
from ritornello.rendering import picture
from ritornello.reports.comparison import Comparison, Result
from ritornello.reports.sets import MusicSet

Floats = NDArray[np.float64]
REFERENCE, GENERATED, BETWEEN = COLOURS[1:4]
CURVE_POINTS, CURVE_BINS = 160, 1024
LONG_TAIL = 0.995  # of each set's distances are drawn
HISTOGRAM_BINS = 24
MOST_ENTRIES = 64  # of a profile; more are a map
FEW = 12  # entries of a curve, which are then shown as dots too
SMOOTH_WINDOWS = 3
WINDOW_MIN = WINDOW_US / 6e7
ROLL_PX = 800
PITCH_CLASSES = ("C", "C♯", "D", "E♭", "E", "F", "F♯", "G", "A♭", "A", "B♭", "B")
LENGTH_ORDER = np.argsort(LENGTH_CLASSES)


@in_house_look
def feature(result: Result) -> str:
    """Densities of the distances within and between the sets; and the values: of one number a piece a histogram, of a
    row of them mean profiles, of a matrix with 12 columns maps.
    """
    figure = new_figure(7.2, 2.6)
    distances, values = figure.subplots(1, 2)
    _draw_distances(distances, result)
    entries = result.reference.shape[1]
    draw = _draw_histogram if entries == 1 else _draw_profile if entries <= MOST_ENTRIES else _draw_maps
    draw(values, result)
    return _embedded(figure, f"{result.feature.name}: densities of distances, and values")


def _draw_distances(axes: Any, result: Result) -> None:
    distances, n = pairwise(np.concatenate([result.reference, result.generated])), len(result.reference)
    within = [side[np.triu_indices(len(side), 1)] for side in (distances[:n, :n], distances[n:, n:])]
    sets = [*within, distances[:n, n:].ravel()]
    low, high = min(side.min() for side in sets), max(np.quantile(side, LONG_TAIL) for side in sets)
    at = np.linspace(*((low, high) if high > low else (low - 0.5, low + 0.5)), CURVE_POINTS)
    for values, colour, style in zip(sets, (REFERENCE, GENERATED, BETWEEN), ("-", "-", "--")):
        density = _density(values, at)
        axes.fill_between(at, 0, density, color=colour, alpha=0.12, lw=0)
        axes.plot(at, density, style, color=colour)
    axes.set(title="distances between pieces", xlabel=f"distance in {result.feature.unit}", ylim=(0, None), yticks=[])


def _density(values: Floats, at: Floats) -> Floats:
    """Gaussian kernels by Scott's rule; a set of equal distances is a narrow peak."""
    bandwidth = max(Distances(values).bandwidth, 2 * (at[1] - at[0]))
    counts, edges = np.histogram(values, CURVE_BINS)
    kernels = np.exp(-0.5 * ((at[:, None] - (edges[1:] + edges[:-1]) / 2) / bandwidth) ** 2)
    return np.asarray(kernels @ counts / (len(values) * bandwidth * np.sqrt(2 * np.pi)))


def _draw_histogram(axes: Any, result: Result) -> None:
    sides = (result.reference[:, 0], result.generated[:, 0])
    edges = np.histogram_bin_edges(np.concatenate(sides), HISTOGRAM_BINS)
    for side, colour in zip(sides, (REFERENCE, GENERATED)):
        axes.hist(side, edges, weights=np.full(len(side), 1 / len(side)), color=colour, alpha=0.5)
    axes.set(title="share of the pieces", xlabel=result.feature.unit)


def _draw_profile(axes: Any, result: Result) -> None:
    order, ticks, title = _entries(result)
    _draw_means(axes, result, order)
    axes.set(title=f"mean {result.feature.unit}", xlabel=title)
    axes.set_xticks([*ticks], [*ticks.values()])


def _draw_means(axes: Any, result: Result, order: ArrayLike) -> None:
    style = "o-" if result.reference.shape[1] <= FEW else "-"
    for side, colour in zip((result.reference, result.generated), (REFERENCE, GENERATED)):
        axes.plot(side.mean(axis=0)[order], style, ms=4, color=colour)
    axes.set_ylim(bottom=min(0, axes.get_ylim()[0]))


def _entries(result: Result) -> tuple[NDArray[np.integer], dict[float, str], str]:
    """In which order a profile's entries are drawn, the texts of its ticks by their places, and what they are."""
    name, n = result.feature.name, result.reference.shape[1]
    if name in ("NLH", "note_length_hist"):
        texts = [f"{length / UNITS_PER_S:.3g}" for length in LENGTH_CLASSES[LENGTH_ORDER]]
        return LENGTH_ORDER, dict([*enumerate(texts)][1::2]), "note length in s"
    if name == "structure_curve":
        return np.arange(n), dict(enumerate(map(str, DURATIONS_S))), "length of the segment in s"
    if n == len(PITCH_CLASSES):
        return np.arange(n), dict(enumerate(PITCH_CLASSES)), "pitch class"
    if name == "velocity_histogram":
        return np.arange(n), {velocity / 4: str(velocity) for velocity in (1, 32, 64, 96, 124)}, "velocity"
    words = "segment of the piece" if n == SEGMENTS else "entry"
    return np.arange(n), {0: "1", n // 2 - 1: str(n // 2), n - 1: str(n)}, words


def _draw_maps(axes: Any, result: Result) -> None:
    """Both means side by side, on one scale of darkness."""
    maps = [side.mean(axis=0).reshape(-1, 12).T for side in (result.reference, result.generated)]
    rows = maps[0].shape[1]
    axes.imshow(np.hstack([maps[0], np.full((12, 1), np.nan), maps[1]]), cmap="magma_r", vmin=0, aspect="auto")
    axes.set(title="mean of each entry", yticks=[])
    axes.set_xticks([rows / 2, 1.5 * rows + 1], ["reference", "generated"])
    axes.grid(visible=False)


def repetition(sets: Mapping[str, MusicSet], *, width_in: float = 10) -> Any:
    """A figure of the share of notes that repeat, near and far, in the mean of each set by name as its pieces go on.

    The first set is the reference; the band holds nine tenths of its pieces.
    """
    curves = {name: side.repetition for name, side in sets.items()}
    reference = next(iter(curves.values()))
    band = repetition_band(reference) if len(reference) >= BAND_PIECES else None
    colours = (REFERENCE, GENERATED) if len(sets) == 2 else COLOURS
    figure = new_figure(width_in, 3 + 0.3 * width_in)
    for kind, axes in zip(RepetitionCurve._fields, figure.subplots(2, 1, sharex=True)):
        if band is not None:
            low, high = getattr(band, kind)
            axes.fill_between(_minutes(low), low, high, color=FAINT, alpha=0.18, lw=0, label="9 of 10 reference pieces")
        for number, (name, pieces) in enumerate(curves.items()):
            mean = _smooth(getattr(repetition_mean(pieces), kind))
            axes.plot(_minutes(mean), mean, "o-", ms=2, color=colours[number % len(colours)], label=name)
        span = "within the last 30 s" if kind == "near" else "more than 30 s ago"
        axes.set(title=f"Share of notes that repeat what was last played {span}", ylabel="share", ylim=(0, None))
    axes.set(xlabel="minutes", xlim=(0, None))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    return figure


@in_house_look
def draw_repetition(sets: Mapping[str, MusicSet], path: Path) -> None:
    """Writes the figure of `repetition` (.png or .svg). Raises RitornelloError as `charts.save` does."""
    save(repetition(sets), path)


def _minutes(curve: Floats) -> Floats:
    """The middle of each window."""
    return (np.arange(len(curve), dtype=np.float64) + 0.5) * WINDOW_MIN


def _smooth(curve: Floats) -> Floats:
    """Mean over a window and its neighbours."""
    sums, counts = (np.convolve(values, np.ones(SMOOTH_WINDOWS)) for values in (curve, np.ones(len(curve))))
    smooth: Floats = (sums / counts)[SMOOTH_WINDOWS // 2 :][: len(curve)]
    return smooth


@in_house_look
def repetition_over_time(comparison: Comparison) -> str:
    sides = {"reference": comparison.reference, "generated": comparison.generated}
    return _embedded(repetition(sides, width_in=7.2), "near and far repetition over time")


@in_house_look
def structure(result: Result) -> str:
    """Fitness by scale: mean of both sets, and the band that holds 90% of the reference's pieces."""
    figure = new_figure(7.2, 4.6)
    axes = figure.subplots()
    order, ticks, title = _entries(result)
    axes.fill_between(order, *np.quantile(result.reference, BAND, axis=0), color=REFERENCE, alpha=0.2, lw=0)
    _draw_means(axes, result, order)
    axes.set(title="How much of a piece its best segment of each length explains", xlabel=title, ylabel="fitness")
    axes.set_xticks([*ticks], [*ticks.values()])
    return _embedded(figure, "structure by scale")


def piano_roll(piece: Piece, title: str) -> str:
    """A piano roll as an image inside the page."""
    png = BytesIO()
    picture(piece, title=title, width_px=ROLL_PX).save(png, "PNG", optimize=True)
    return _image("image/png", png.getvalue(), f"Piano roll of {title}", "roll")


def _embedded(figure: Any, words: str) -> str:
    return _image("image/svg+xml", svg(figure), words, "chart")


def _image(kind: str, content: bytes, words: str, name: str) -> str:
    """``words`` are what a screen reader says."""
    data = base64.b64encode(content).decode()
    return f'<img class="{name}" alt="{escape(words)}" src="data:{kind};base64,{data}">'
