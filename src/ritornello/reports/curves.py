"""How much of what sets of pieces play repeats what they played before, near and far, as they go on: one chart."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np

from ritornello.charts import COLOURS, FAINT, new_figure, save
from ritornello.metrics import repetition_band, repetition_mean
from ritornello.metrics.repetition import BAND_PIECES, WINDOW_US, RepetitionCurve
from ritornello.reports.results import Floats
from ritornello.reports.sets import MusicSet

SMOOTH_WINDOWS = 3
WINDOW_MIN = WINDOW_US / 6e7


def draw_repetition(sets: Mapping[str, MusicSet], path: Path) -> None:
    """Draws the mean of each set by name, the first being the reference, whose band holds nine tenths of its pieces.

    Raises:
        RitornelloError: as `charts.new_figure` and `charts.save`.
    """
    curves = {name: [measured.repetition for measured in side.measured] for name, side in sets.items()}
    reference = next(iter(curves.values()))
    band = repetition_band(reference) if len(reference) >= BAND_PIECES else None
    figure = new_figure(10, 6)
    for kind, axes in zip(RepetitionCurve._fields, figure.subplots(2, 1, sharex=True)):
        if band is not None:
            low, high = getattr(band, kind)
            axes.fill_between(_minutes(low), low, high, color=FAINT, alpha=0.18, lw=0, label="9 of 10 reference pieces")
        for number, (name, pieces) in enumerate(curves.items()):
            mean = _smooth(getattr(repetition_mean(pieces), kind))
            axes.plot(_minutes(mean), mean, "o-", ms=2, color=COLOURS[number % len(COLOURS)], label=name)
        axes.set(title=f"Share of notes that repeat, {kind}", ylabel="share", ylim=(0, None))
    axes.set(xlabel="minutes", xlim=(0, None))
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, path)


def _minutes(curve: Floats) -> Floats:
    """The middle of each window."""
    return (np.arange(len(curve), dtype=np.float64) + 0.5) * WINDOW_MIN


def _smooth(curve: Floats) -> Floats:
    """Mean over a window and its neighbours."""
    sums, counts = (np.convolve(values, np.ones(SMOOTH_WINDOWS)) for values in (curve, np.ones(len(curve))))
    smooth: Floats = (sums / counts)[SMOOTH_WINDOWS // 2 :][: len(curve)]
    return smooth
