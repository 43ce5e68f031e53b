"""Schedules as a picture: a panel for each, a bar for every layer, reaching back into the past."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from ritornello.charts import COLOURS, FAINT, in_house_look, new_figure, save
from ritornello.horizons.schedule import HorizonSchedule

if TYPE_CHECKING:
    from matplotlib.axes import Axes

FADING_STEPS = 30
FADING_SHARE = 0.4  # of an unlimited bar


@in_house_look
def draw_schedules(schedules: Mapping[str, HorizonSchedule], path: Path, *, segment_tokens: int) -> None:
    """Draws named schedules side by side, on one axis of tokens back; unlimited bars fade out at its end.

    Raises:
        RitornelloError: where matplotlib is not installed, or the file cannot be written.
    """
    rows = math.ceil(len(schedules) / 5)
    columns = math.ceil(len(schedules) / rows)
    figure = new_figure(max(4.5, 3.2 * columns), 0.5 + 2.5 * rows)
    finite = [h for schedule in schedules.values() for h in schedule.horizons if h is not None]
    edge = 1.08 * max([*finite, segment_tokens])
    panels = iter(figure.subplots(rows, columns, squeeze=False).flat)
    for (name, schedule), axes in zip(schedules.items(), panels):
        _draw(axes, schedule, edge)
        axes.set_title("\n".join(textwrap.wrap(name, 34, max_lines=2, placeholder=" …")), fontsize=10, pad=18)
        axes.text(0, 1.04, _subtitle(schedule, segment_tokens), transform=axes.transAxes, fontsize=8, color=FAINT)
        axes.tick_params(labelsize=8)
    for axes in panels:
        axes.set_axis_off()
    figure.supxlabel("tokens back", fontsize=9, color=FAINT)
    figure.supylabel("layer", fontsize=9, color=FAINT)
    save(figure, path)


def _draw(axes: Axes, schedule: HorizonSchedule, edge: float) -> None:
    solid, step = edge * (1 - FADING_SHARE), edge * FADING_SHARE / FADING_STEPS
    lengths = [solid if horizon is None else horizon for horizon in schedule.horizons]
    axes.barh(range(1, schedule.layers + 1), lengths, height=0.7, color=COLOURS[1])
    endless = [layer for layer, horizon in enumerate(schedule.horizons, 1) if horizon is None]
    for i in range(FADING_STEPS if endless else 0):
        alpha = 1 - (i + 1) / (FADING_STEPS + 1)
        axes.barh(endless, step, left=solid + i * step, height=0.7, color=COLOURS[1], alpha=alpha)
    axes.set_xlim(edge, 0)
    axes.set_ylim(0.4, schedule.layers + 0.6)
    axes.grid(visible=False, axis="y")
    axes.spines[["left", "right"]].set_visible(False)
    axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter("{x:,.0f}")
    axes.set_yticks(range(1, schedule.layers + 1, math.ceil(schedule.layers / 8)))


def _subtitle(schedule: HorizonSchedule, segment_tokens: int) -> str:
    sliding = ", sliding" if schedule.rule == "sliding" else ""
    reach = schedule.reach_tokens(segment_tokens=segment_tokens)
    if reach is None:
        return f"no limit{sliding}; reaches the whole piece"
    return f"{schedule.budget_tokens:,} tokens{sliding}; reaches {reach:,}"
