"""Speed and memory of training under a schedule, measured while its memories are full.

A step is that of the training loop: a segment of every lane forward, the loss, backward, clipping, the optimisers. The
tokens are random, as no cost depends on them. Every schedule is measured in a process of its own.

A schedule of finite horizons is first read forward until every horizon is full. From there to the end of the piece
(further, where the piece is too short) the measured steps are spaced evenly, and all between them is read forward
alone; tokens/s are those of the median step. An unlimited horizon is never full: its steps are spaced evenly from the
piece's first segment to its last, and tokens/s are those of the mean step. As a step's cost grows linearly with what is
remembered, that is the mean of the whole piece.

How much of the machine that is: the FLOPs that a token's training takes at the least, times tokens/s, over what
products of large matrices reach in the same process just after (model FLOPs utilisation, arXiv 2204.02311, appendix B).
"""

from __future__ import annotations

import json
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from typing import Any

import torch
from torch import Tensor, nn

from ritornello import codec
from ritornello.bench.meter import Meter, answer, in_fresh_process
from ritornello.errors import RitornelloError, check_limits
from ritornello.horizons import HorizonSchedule
from ritornello.horizons.text import study_texts
from ritornello.likelihood import autocast, token_nats
from ritornello.models.config import DSMRConfig
from ritornello.models.dsmr import DSMR
from ritornello.models.protocol import nbytes
from ritornello.training import fitting
from ritornello.training.fitting import Precision
from ritornello.training.optimisers import Optimisers
from ritornello.training.recipes import Recipe

CLIP_NORM = 1.0
PRODUCT_ROWS = {"cpu": 1024, "cuda": 8192}
PRODUCTS = 20


@dataclass(frozen=True)
class Setting:
    """What all measured models have in common. Raises RitornelloError where a number is outside its limits."""

    width: int = 256
    heads: int = 4
    lanes: int = 4
    segment_tokens: int = 512
    piece_tokens: int = 16_384
    """whole segments"""
    steps: int = 8
    """to be measured; two at least, a piece's first and its last"""
    device: str = "cpu"
    precision: Precision = "fp32"
    """bf16 is by autocast"""
    seed: int = 0

    def __post_init__(self) -> None:
        check_limits(lanes=(self.lanes, 1, 65_536), steps=(self.steps, 2, 100_000))
        check_limits(piece_tokens=(self.piece_tokens, 1, 10**8))
        if self.piece_tokens % self.segment_tokens:
            whole = -(-self.piece_tokens // self.segment_tokens) * self.segment_tokens
            raise RitornelloError(
                f"a piece of {self.piece_tokens} tokens is not of whole segments of {self.segment_tokens}; "
                f"give it {whole}"
            )
        if self.piece_tokens < self.steps * self.segment_tokens:
            raise RitornelloError(
                f"a piece of {self.piece_tokens} tokens has no {self.steps} segments of {self.segment_tokens}; "
                "make it longer, or measure fewer steps"
            )

    def measured_segments(self, full_tokens: int | None) -> list[int]:
        """Which segments are measured, counted from 0, where memories are full after so many tokens; None = never."""
        first = 0 if full_tokens is None else -(-full_tokens // self.segment_tokens)
        last = max(first + self.steps, self.piece_tokens // self.segment_tokens) - 1
        return [first + round(i * (last - first) / (self.steps - 1)) for i in range(self.steps)]


@dataclass(frozen=True)
class Step:
    position_tokens: int
    """of the piece, before the segment"""
    seconds: float
    peak_bytes: int
    """so far, above the idle baseline"""


@dataclass(frozen=True)
class Measurement:
    steps: tuple[Step, ...]
    parameters: int
    baseline_bytes: int
    """of the idle process, or of the device's allocator"""
    state_bytes: int
    """per lane, before the last measured step"""
    step_tokens: int
    """of all lanes"""
    fills: bool
    """whether the horizons were full"""
    threads: int
    """of torch, in the process that measured"""
    matrix_flops_per_s: float
    """of large products in the same precision, just after"""

    @property
    def tokens_per_s(self) -> float:
        """By the median step, or where horizons are never full by the mean one."""
        seconds = [step.seconds for step in self.steps]
        return self.step_tokens / (statistics.median(seconds) if self.fills else statistics.fmean(seconds))

    @property
    def range_tokens_per_s(self) -> tuple[float, float]:
        """By the slowest step and by the fastest."""
        seconds = [step.seconds for step in self.steps]
        return self.step_tokens / max(seconds), self.step_tokens / min(seconds)

    @property
    def peak_bytes(self) -> int:
        return self.steps[-1].peak_bytes


@dataclass(frozen=True)
class Trainee:
    """A recurrent model as it is measured."""

    parameters: list[nn.Parameter]
    start: Callable[[], Any]
    """the state before a piece"""
    forward: Callable[[Tensor, Any], tuple[Tensor, Any]]
    """(B, S) tokens and a state -> logits and the next state, detached"""
    update: Callable[[], None]
    """the optimisers' step; drops the gradients"""
    state_bytes: Callable[[Any], int]


def standard_texts(*, layers: int, segment_tokens: int) -> dict[str, str]:
    """The study's schedules under the budget of its final model, whose layers remember eight segments or one."""
    n_long = max(1, layers // 4)
    budget_tokens = (8 * n_long + layers - n_long) * segment_tokens
    two_scale = f"two_scale(long={n_long}x{8 * segment_tokens}, short={segment_tokens})"
    return study_texts(layers=layers, budget_tokens=budget_tokens) | {"two-scale": two_scale}


def reference_of(schedules: dict[str, HorizonSchedule]) -> str:
    """The name of the one that ratios are to: full memory where it is among them, else the first."""
    full = (name for name, schedule in schedules.items() if set(schedule.horizons) == {None})
    return next(full, next(iter(schedules)))


def check_memory(schedule: HorizonSchedule, setting: Setting) -> None:
    """Refuses memories that would not fit the machine, before anything is started.

    Raises:
        RitornelloError: with the bytes needed and free; also for sizes that do not fit together.
    """
    last = setting.measured_segments(_full_tokens(schedule))[-1]
    device = torch.device(setting.device)
    memories = fitting.Memories(
        config_of(schedule, setting),
        lanes=setting.lanes,
        piece_tokens=(last + 1) * setting.segment_tokens,
        device=device,
        precision=setting.precision,
    )
    memories.check_fit(fitting.free_bytes(device))


def measure_schedule(schedule: HorizonSchedule, setting: Setting) -> Measurement:
    """Measures a schedule in a process of its own.

    Raises:
        RitornelloError: where memory runs out all the same.
    """
    job = json.dumps({"schedule": str(schedule), "setting": asdict(setting)})
    return as_measurement(in_fresh_process(["-m", "ritornello.bench.training", job]))


def as_measurement(figures: dict[str, Any]) -> Measurement:
    return Measurement(**{**figures, "steps": tuple(Step(**step) for step in figures["steps"])})


def measure(make: Callable[[Setting], Trainee], setting: Setting, *, full_tokens: int | None) -> Measurement:
    """Measures a model in this process, which on a CPU should be a fresh one.

    Args:
        make: builds it in a setting. On a CPU it is also built, and trained for a step, in a minute size before
            memory is taken for idle: some of torch is loaded only when it is first used, and is no part of a model.
        setting: what to measure.
        full_tokens: how many tokens fill its memories; None = no number.
    """
    device = torch.device(setting.device)
    torch.manual_seed(setting.seed)
    if device.type == "cpu":
        _train_minute(make, setting)
    meter = Meter(device)
    trainee = make(setting)
    state = trainee.start()
    measured = setting.measured_segments(full_tokens)
    steps: list[Step] = []
    for segment in range(measured[-1] + 1):
        tokens = _tokens(setting)
        if segment not in measured:
            with torch.no_grad():
                _, state = _forward(trainee, tokens, state, setting)
            continue
        if not steps:  # the first step takes memory from the system
            _train(trainee, tokens, state, setting)
        if segment == measured[-1]:
            state_bytes = trainee.state_bytes(state) // setting.lanes
        began_s = _now_s(device)
        state = _train(trainee, tokens, state, setting)
        seconds = _now_s(device) - began_s
        steps.append(Step(segment * setting.segment_tokens, seconds, meter.peak_bytes()))
    return Measurement(
        tuple(steps),
        parameters=sum(parameter.numel() for parameter in trainee.parameters),
        baseline_bytes=meter.baseline_bytes,
        state_bytes=state_bytes,
        step_tokens=setting.lanes * setting.segment_tokens,
        fills=full_tokens is not None,
        threads=torch.get_num_threads(),
        matrix_flops_per_s=matrix_flops_per_s(device, setting.precision),
    )


def matrix_flops_per_s(device: torch.device, precision: Precision) -> float:
    """Multiplications and additions per second in the fastest of some products of large square matrices."""
    rows = PRODUCT_ROWS[device.type]
    kind = torch.float32 if precision == "fp32" else torch.bfloat16
    a, b = (torch.ones(rows, rows, dtype=kind, device=device) for _ in range(2))
    seconds = []
    for _ in range(PRODUCTS):
        began_s = _now_s(device)
        a @ b
        seconds.append(_now_s(device) - began_s)
    return 2 * rows**3 / min(seconds)


def dsmr(schedule: HorizonSchedule, setting: Setting) -> Trainee:
    """This project's model with its own optimisers."""
    config = config_of(schedule, setting)
    model = DSMR(config).to(setting.device).train()
    recipe = Recipe("bench", config, lanes=setting.lanes, steps=setting.steps)
    optimisers = Optimisers(model, recipe)
    return Trainee(
        parameters=list(model.parameters()),
        start=lambda: model.initial_state(setting.lanes),
        forward=model,
        update=lambda: optimisers.step(1.0),
        state_bytes=nbytes,
    )


def config_of(schedule: HorizonSchedule, setting: Setting) -> DSMRConfig:
    """The sizes of this project's model in a setting."""
    sizes = {name: getattr(setting, name) for name in ("width", "heads", "segment_tokens")}
    return DSMRConfig(schedule, mlp_width=setting.width * 11 // 4, **sizes)


def _tokens(setting: Setting) -> Tensor:
    shape = (setting.lanes, setting.segment_tokens + 1)
    return torch.randint(0, codec.N_EVENTS, shape).to(setting.device)


def _train_minute(make: Callable[[Setting], Trainee], setting: Setting) -> None:
    minute = replace(setting, width=16 * setting.heads, lanes=1, segment_tokens=16, piece_tokens=16 * setting.steps)
    trainee = make(minute)
    _train(trainee, _tokens(minute), trainee.start(), minute)


def _forward(trainee: Trainee, tokens: Tensor, state: Any, setting: Setting) -> tuple[Tensor, Any]:
    with autocast(torch.device(setting.device), setting.precision):
        return trainee.forward(tokens[:, :-1], state)


def _train(trainee: Trainee, tokens: Tensor, state: Any, setting: Setting) -> Any:
    logits, state = _forward(trainee, tokens, state, setting)
    targets = tokens[:, 1:]
    loss = token_nats(logits, targets, None).sum() / targets.numel()
    loss.backward()
    nn.utils.clip_grad_norm_(trainee.parameters, CLIP_NORM)
    trainee.update()
    return state


def _now_s(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()


def _full_tokens(schedule: HorizonSchedule) -> int | None:
    limits = [h for h in schedule.horizons if h is not None]
    return max(limits) if len(limits) == schedule.layers else None


def _measured_here(job: dict[str, Any]) -> dict[str, Any]:
    schedule, setting = HorizonSchedule.parse(job["schedule"]), Setting(**job["setting"])
    return asdict(measure(lambda size: dsmr(schedule, size), setting, full_tokens=_full_tokens(schedule)))


if __name__ == "__main__":
    answer(lambda: _measured_here(json.loads(sys.argv[1])))
