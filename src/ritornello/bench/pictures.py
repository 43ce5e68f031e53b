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
    rows, names, found = range(len(measured)), list(measured), list(measured.values())
    bars = speed.barh(rows, [one.tokens_per_s for one in found], height=0.6, color=COLOURS[1])
    speed.bar_label(
        bars, [f"{one.tokens_per_s:,.0f}  ({one.real_time_factor:.1f} x real time)" for one in found], padding=4
    )
    speed.set_xlim(0, 1.7 * max(one.tokens_per_s for one in found))
    speed.set_title("played, tokens/s")
    delay.hlines(rows, [one.p50_ms for one in found], [one.p99_ms for one in found], color=COLOURS[1], linewidth=5)
    delay.plot([one.p50_ms for one in found], rows, "o", color=INK)
    delay.plot([one.p99_ms for one in found], rows, "|", color=INK, markersize=14)
    delay.set_xlim(0, 1.25 * max(one.p99_ms for one in found))
    delay.set_title("ms a token: median (o), 99th percentile (|)")
    speed.set_yticks(rows, names)
    speed.invert_yaxis()
    for axes in (speed, delay):
        axes.grid(visible=False, axis="y")
    save(figure, path)
