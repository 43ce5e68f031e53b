"""Measured schedules as figures and as a picture."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from ritornello.bench.training import Measurement, Setting, config_of, reference_of
from ritornello.charts import COLOURS, FAINT, in_house_look, new_figure, save
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.costs import BYTES_PER_NUMBER

if TYPE_CHECKING:
    from matplotlib.axes import Axes


@dataclass(frozen=True)
class MeasuredSchedule:
    """One schedule, measured, beside the one that all are compared with."""

    schedule: HorizonSchedule
    measured: Measurement
    declared_state_bytes: int
    """per lane, where the state was measured"""
    speed_ratio: float
    """tokens/s over the reference's"""
    peak_ratio: float
    """peak memory over the reference's"""
    flops_per_token: float

    @property
    def matrix_share(self) -> float:
        """Of the measured matrix speed, that the FLOPs of training at this speed make."""
        return self.measured.tokens_per_s * self.flops_per_token / self.measured.matrix_flops_per_s

    def figures(self) -> dict[str, Any]:
        slowest, fastest = self.measured.range_tokens_per_s
        return {
            "schedule": str(self.schedule),
            "budget_tokens": self.schedule.budget_tokens,
            "parameters": self.measured.parameters,
            "tokens_per_s": self.measured.tokens_per_s,
            "slowest_tokens_per_s": slowest,
            "fastest_tokens_per_s": fastest,
            "tokens_per_s_ratio": self.speed_ratio,
            "flops_per_token": self.flops_per_token,
            "matrix_flops_per_s": self.measured.matrix_flops_per_s,
            "matrix_share": self.matrix_share,
            "peak_bytes": self.measured.peak_bytes,
            "peak_ratio": self.peak_ratio,
            "baseline_bytes": self.measured.baseline_bytes,
            "state_bytes": self.measured.state_bytes,
            "declared_state_bytes": self.declared_state_bytes,
            "steps": [asdict(step) for step in self.measured.steps],
        }


def compared(
    schedules: dict[str, HorizonSchedule], measured: Mapping[str, Measurement], setting: Setting
) -> dict[str, MeasuredSchedule]:
    """The schedules by name, each with its ratios to `reference_of` them."""
    reference = measured[reference_of(schedules)]
    rows = {}
    for name, schedule in schedules.items():
        measurement, config = measured[name], config_of(schedule, setting)
        position, size = measurement.steps[-1].position_tokens, BYTES_PER_NUMBER[setting.precision]
        rows[name] = MeasuredSchedule(
            schedule,
            measurement,
            config.held_bytes(position, bytes_per_number=size),
            speed_ratio=measurement.tokens_per_s / reference.tokens_per_s,
            peak_ratio=measurement.peak_bytes / reference.peak_bytes,
            flops_per_token=config.training_flops_per_token(setting.piece_tokens),
        )
    return rows


@in_house_look
def draw(rows: Mapping[str, MeasuredSchedule], path: Path, *, reference: str) -> None:
    """Draws speed and peak memory as bars, with the ratios to the reference.

    Raises:
        RitornelloError: where matplotlib is not installed, or the file cannot be written.
    """
    figure = new_figure(9.5, 1.2 + 0.42 * len(rows))
    speed, memory = figure.subplots(1, 2, sharey=True)
    _bars(speed, [row.measured.tokens_per_s for row in rows.values()], [row.speed_ratio for row in rows.values()])
    _bars(memory, [row.measured.peak_bytes / 1e6 for row in rows.values()], [row.peak_ratio for row in rows.values()])
    speed.set_title("trained, tokens/s")
    memory.set_title("peak memory above idle, MB")
    speed.set_yticks(range(len(rows)), ["\n".join(textwrap.wrap(name, 30)) for name in rows])
    speed.invert_yaxis()
    figure.supxlabel(f"ratios are to {reference}", fontsize=9, color=FAINT)
    save(figure, path)


def _bars(axes: Axes, values: list[float], ratios: list[float]) -> None:
    bars = axes.barh(range(len(values)), values, height=0.7, color=COLOURS[1])
    axes.bar_label(
        bars, [f"{value:,.0f}  ({ratio:.2f}x)" for value, ratio in zip(values, ratios)], padding=4, fontsize=8
    )
    axes.set_xlim(0, 1.35 * max(values))
    axes.grid(visible=False, axis="y")
    axes.spines["left"].set_visible(False)
    axes.tick_params(axis="y", length=0)
    axes.xaxis.set_major_formatter("{x:,g}")
