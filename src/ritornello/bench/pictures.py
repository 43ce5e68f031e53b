"""Measured engines as a picture."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from ritornello.bench.generation import Measurement
from ritornello.charts import COLOURS, INK, new_figure, save


def draw_generation(measured: Mapping[str, Measurement], path: Path) -> None:
    """Draws tokens/s and the delay of a token for every engine.

    Raises:
        RitornelloError: where matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(9.5, 1.4 + 0.5 * len(measured))
    speed, delay = figure.subplots(1, 2, sharey=True)
    rows, names, measurements = range(len(measured)), list(measured), list(measured.values())
    bars = speed.barh(rows, [measurement.tokens_per_s for measurement in measurements], height=0.6, color=COLOURS[1])
    speed.bar_label(
        bars,
        [
            f"{measurement.tokens_per_s:,.0f}  ({measurement.real_time_factor:.1f} x real time)"
            for measurement in measurements
        ],
        padding=4,
    )
    speed.set_xlim(0, 1.7 * max(measurement.tokens_per_s for measurement in measurements))
    speed.set_title("played, tokens/s")
    delay.hlines(
        rows,
        [measurement.p50_ms for measurement in measurements],
        [measurement.p99_ms for measurement in measurements],
        color=COLOURS[1],
        linewidth=5,
    )
    delay.plot([measurement.p50_ms for measurement in measurements], rows, "o", color=INK)
    delay.plot([measurement.p99_ms for measurement in measurements], rows, "|", color=INK, markersize=14)
    delay.set_xlim(0, 1.25 * max(measurement.p99_ms for measurement in measurements))
    delay.set_title("ms a token: median (o), 99th percentile (|)")
    speed.set_yticks(rows, names)
    speed.invert_yaxis()
    for axes in (speed, delay):
        axes.grid(visible=False, axis="y")
    save(figure, path)
