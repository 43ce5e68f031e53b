"""Draws how much of what sets of pieces play repeats what they played before, near and far, as they go on.

python tools/repetition.py docs/images/repetition.png sets/human sets/human-2 sets/small

The first folder is the reference: its band holds nine tenths of its pieces (`ritornello.metrics.repetition_band`).
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ritornello import read_midi
from ritornello.charts import COLOURS, FAINT, new_figure, save
from ritornello.metrics import repetition_band, repetition_curve
from ritornello.metrics.repetition import BAND_PIECES, WINDOW_US, RepetitionCurve

SMOOTH_WINDOWS = 3


def main() -> None:
    """Reads the arguments and draws."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("picture", type=Path)
    parser.add_argument("folders", type=Path, nargs="+", metavar="FOLDER")
    arguments = parser.parse_args()
    sets = {folder.name: curves_of(folder) for folder in arguments.folders}
    band = repetition_band(next(iter(sets.values())))
    figure = new_figure(10, 6)
    for axes, kind in zip(figure.subplots(2, 1, sharex=True), ("near", "far")):
        shown = np.flatnonzero(band.pieces >= BAND_PIECES)
        minutes = (shown + 0.5) * WINDOW_US / 6e7
        low, high = getattr(band, kind)[:, shown]
        axes.fill_between(minutes, low, high, color=FAINT, alpha=0.18, lw=0, label="9 of 10 reference pieces")
        for (name, curves), colour in zip(sets.items(), COLOURS):
            mean = mean_of([getattr(curve, kind) for curve in curves], len(band.pieces))
            axes.plot((np.arange(len(mean)) + 0.5) * WINDOW_US / 6e7, mean, color=colour, label=name)
        axes.set(title=f"Share of notes that repeat, {kind}", ylabel="share", ylim=(0, None))
    axes.set(xlabel="minutes")
    figure.legend(*figure.axes[0].get_legend_handles_labels(), loc="outside lower center", ncols=3)
    save(figure, arguments.picture)


def curves_of(folder: Path) -> list[RepetitionCurve]:
    """Of every piece with notes."""
    pieces = map(read_midi, sorted(folder.rglob("*.mid")))
    return [repetition_curve(piece) for piece in pieces if len(piece)]


def mean_of(curves: list[NDArray[np.float64]], windows: int) -> NDArray[np.float64]:
    """(W,) mean over the pieces that reach a window, while there are enough, smoothed over neighbours."""
    reached = np.array([sum(len(curve) > window for curve in curves) for window in range(windows)])
    last = int(np.argmin(reached >= BAND_PIECES)) if (reached < BAND_PIECES).any() else windows
    means = np.array([np.mean([curve[window] for curve in curves if len(curve) > window]) for window in range(last)])
    weight = np.ones(SMOOTH_WINDOWS)
    smooth: NDArray[np.float64] = np.convolve(means, weight, "same") / np.convolve(np.ones(last), weight, "same")
    return smooth


if __name__ == "__main__":
    main()
