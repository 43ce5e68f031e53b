"""``bench train``: what is measured, when and against what; parity of devices; bad input gets one line."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from command import Outcome, Run
from torch import Tensor, nn

from ritornello import codec
from ritornello.bench import parity, report, training
from ritornello.bench.meter import in_fresh_process
from ritornello.bench.training import (
    Measurement,
    Setting,
    Step,
    Trainee,
    declared_state_bytes,
    dsmr,
    measure,
    reference_of,
    standard_texts,
)
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models.attention import Attention, plain, tiled
from ritornello.models.dsmr import DSMR

SMALL = Setting(width=32, heads=2, lanes=2, segment_tokens=16, piece_tokens=128, steps=3)
SMALL_OPTIONS = ("--width", 32, "--heads", 2, "--lanes", 2, "--segment", 16, "--piece", 128, "--steps", 3)


@pytest.fixture
def run(command: Run) -> Run:
    """The verb, on a CPU if nothing else is asked for."""

    def run_verb(*arguments: object) -> Outcome:
        return command("bench", "train", *arguments, *(() if "--device" in arguments else ("--device", "cpu")))

    return run_verb


# When it is measured.


@pytest.mark.parametrize(
    ("full_tokens", "segments"),
    [
        (None, [0, 4, 7]),  # a piece of eight segments, from its first to its last
        (16, [1, 4, 7]),  # from the first segment before which the horizon is full
        (17, [2, 4, 7]),
        (0, [0, 4, 7]),
        (96, [6, 7, 8]),  # the piece is too short: it goes on
        (1600, [100, 101, 102]),
    ],
)
def test_steps_are_spread_over_the_piece_once_horizons_are_full(full_tokens: int | None, segments: list[int]) -> None:
    assert SMALL.measured_segments(full_tokens) == segments


class Pretender:
    """A model of one weight whose state is how many segments it has read; it writes down what is done to it."""

    def __init__(self) -> None:
        self.weight = nn.Parameter(torch.full((1,), 3.0))
        self.done: list[tuple[str, int]] = []
        self.gradients: list[float] = []

    def forward(self, tokens: Tensor, state: int) -> tuple[Tensor, int]:
        self.done.append(("train" if torch.is_grad_enabled() else "read", state))
        logits = torch.zeros(*tokens.shape, codec.N_EVENTS)
        logits[..., 0] = 100 * self.weight  # the loss falls by 100 x the share of token 0 with every unit, and rises
        return logits, state + 1

    def update(self) -> None:
        assert self.weight.grad is not None
        self.gradients.append(float(self.weight.grad))
        self.weight.grad = None

    def trainee(self, _: Setting) -> Trainee:
        return Trainee([self.weight], lambda: 0, self.forward, self.update, lambda state: 1000 * state)


def test_what_is_not_measured_is_read_forward_and_only_the_first_step_is_repeated() -> None:
    pretender = Pretender()
    found = measure(pretender.trainee, SMALL, full_tokens=32)
    idle, *work = pretender.done
    assert idle == ("train", 0)  # in a minute size, before memory counts as idle
    reads = [("read", segment) for segment in range(7)]
    assert work == [*reads[:2], ("train", 2), ("train", 2), reads[3], ("train", 4), *reads[5:7], ("train", 7)]
    assert [step.position_tokens for step in found.steps] == [32, 64, 112]
    assert all(step.seconds > 0 for step in found.steps)
    assert (found.state_bytes, found.step_tokens, found.parameters) == (7000 // 2, 2 * 16, 1)


def test_gradients_are_clipped_and_given_to_the_optimiser() -> None:
    pretender = Pretender()
    measure(pretender.trainee, SMALL, full_tokens=None)
    assert pretender.gradients == pytest.approx([1.0] * 5, abs=1e-4)  # some 100 before clipping


def measurement(*seconds: float, fills: bool = True, peak_bytes: int = 10**6) -> Measurement:
    steps = tuple(Step(512 * i, s, peak_bytes * (i + 1) // len(seconds)) for i, s in enumerate(seconds))
    sizes = {"baseline_bytes": 7, "state_bytes": 64, "step_tokens": 60, "threads": 1}
    return Measurement(steps, 1, fills=fills, matrix_flops_per_s=1e9, **sizes)


def test_speed_is_the_median_steps_or_that_of_the_whole_growing_piece() -> None:
    full, growing = measurement(1.0, 2.0, 9.0), measurement(1.0, 2.0, 9.0, fills=False)
    assert (full.tokens_per_s, growing.tokens_per_s) == (30, 15)
    assert full.range_tokens_per_s == growing.range_tokens_per_s == (pytest.approx(60 / 9), 60)
    assert full.peak_bytes == 10**6


# Memory.


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("text", "slots"), [("40, 8", 48), ("40, 8 sliding", 48), ("0, 0", 0), ("unlimited, 8", 120)])
def test_the_state_has_the_bytes_that_the_schedule_declares(text: str, slots: int, precision: Any) -> None:
    """The last measured segment is the piece's eighth: 112 tokens lie before it."""
    schedule, setting = HorizonSchedule.parse(text), replace(SMALL, precision=precision)
    found = measure(lambda size: dsmr(schedule, size), setting, full_tokens=None if "unlimited" in text else 40)
    size = {"fp32": 4, "bf16": 2}[precision]
    assert found.state_bytes == declared_state_bytes(schedule, setting, 112) == slots * 2 * 32 * size


def test_the_peak_counts_what_was_freed_and_not_what_was_there_before() -> None:
    program = """
import torch
from ritornello.bench.meter import Meter, answer
there = torch.ones(10_000_000)
meter = Meter(torch.device("cpu"))
torch.ones(30_000_000).sum()
answer(lambda: {"peak": meter.peak_bytes(), "baseline": meter.baseline_bytes})
"""
    found = in_fresh_process(["-c", program])
    assert found["peak"] == pytest.approx(120e6, rel=0.1)
    assert found["baseline"] > 40e6


def test_a_measuring_process_that_fails_says_why() -> None:
    with pytest.raises(RitornelloError, match=r"killed by signal 9.*--lanes"):
        in_fresh_process(["-c", "import os; os.kill(os.getpid(), 9)"])
    with pytest.raises(RuntimeError, match="ZeroDivisionError"):
        in_fresh_process(["-c", "1 / 0"])
    with pytest.raises(RitornelloError, match=r"^too large$"):
        in_fresh_process(["-c", """print('noise'); print('{"error": "too large"}')"""])


def test_a_measuring_process_ends_with_the_one_that_started_it(tmp_path: Path) -> None:
    note = tmp_path / "child"
    child = f"""
import os, time
from pathlib import Path
from ritornello.bench.meter import answer
def work():
    Path({str(note)!r}).write_text(str(os.getpid()) + " ")
    time.sleep(60)
answer(work)
"""
    program = f"from ritornello.bench.meter import in_fresh_process; in_fresh_process(['-c', {child!r}])"
    parent = subprocess.Popen([sys.executable, "-c", program])
    assert soon(lambda: note.exists() and note.read_text().endswith(" "))
    parent.kill()
    parent.wait()
    assert soon(lambda: not running(int(note.read_text())))


def soon(happened: Callable[[], bool]) -> bool:
    until_s = time.monotonic() + 30
    while time.monotonic() < until_s and not happened():
        time.sleep(0.02)
    return happened()


def running(pid: int) -> bool:
    """Neither gone nor a zombie that nobody has waited for."""
    status = Path(f"/proc/{pid}/status")
    return status.exists() and "State:\tZ" not in status.read_text()


# Side by side.


def test_the_standard_schedules_spend_the_budget_of_the_two_scale_model() -> None:
    texts = standard_texts(layers=8, segment_tokens=512)
    schedules = {name: HorizonSchedule.parse(text, layers=8) for name, text in texts.items()}
    assert len(schedules) == 10
    assert schedules["two-scale"].horizons == (4096,) * 2 + (512,) * 6
    assert {schedule.budget_tokens for schedule in schedules.values()} == {None, 11_264}
    assert next(iter(texts)) == reference_of(schedules) == "full memory"


def test_without_full_memory_the_first_schedule_is_the_reference() -> None:
    schedules = {text: HorizonSchedule.parse(text, layers=2) for text in ("unlimited, 4", "2x9", "unlimited")}
    assert reference_of(schedules) == "unlimited"
    del schedules["unlimited"]
    assert reference_of(schedules) == "unlimited, 4"


def test_schedules_are_measured_in_processes_of_their_own_and_compared(run: Run, tmp_path: Path) -> None:
    outcome = run("2x32, 16", "unlimited", "--layers", 3, *SMALL_OPTIONS, "--json", "--png", tmp_path / "b.png")
    assert outcome.code == 0, outcome.err
    figures = json.loads(outcome.out)
    assert (figures["reference"], figures["tokens"], figures["threads"]) == ("unlimited", "random", 1)
    two_scale, full = figures["schedules"]
    assert [step["position_tokens"] for step in two_scale["steps"]] == [32, 64, 112]
    assert [step["position_tokens"] for step in full["steps"]] == [0, 64, 112]
    assert two_scale["state_bytes"] == two_scale["declared_state_bytes"] == (32 + 32 + 16) * 2 * 32 * 4
    assert full["state_bytes"] == full["declared_state_bytes"] == 3 * 112 * 2 * 32 * 4
    seconds = [step["seconds"] for step in two_scale["steps"]]
    assert two_scale["tokens_per_s"] == pytest.approx(32 / sorted(seconds)[1])
    assert full["tokens_per_s"] == pytest.approx(32 * 3 / sum(step["seconds"] for step in full["steps"]))
    assert two_scale["tokens_per_s_ratio"] == pytest.approx(two_scale["tokens_per_s"] / full["tokens_per_s"])
    assert two_scale["peak_ratio"] == pytest.approx(two_scale["peak_bytes"] / full["peak_bytes"])
    assert full["tokens_per_s_ratio"] == full["peak_ratio"] == 1
    assert two_scale["baseline_bytes"] > 10**8 > two_scale["peak_bytes"] > 0  # the interpreter and torch are no peak
    assert (tmp_path / "b.png").read_bytes().startswith(b"\x89PNG")


@pytest.fixture
def rows() -> dict[str, report.MeasuredSchedule]:
    schedules = {name: HorizonSchedule.parse(name, layers=2) for name in ("2x4", "unlimited")}
    measured = {
        "2x4": measurement(1.0, 2.0, 9.0, peak_bytes=3_000_000),
        "unlimited": measurement(4.0, 4.0, fills=False, peak_bytes=12_000_000),
    }
    return report.compared(schedules, measured, SMALL)


def test_ratios_are_to_full_memory(rows: dict[str, report.MeasuredSchedule]) -> None:
    assert [(row.speed_ratio, row.peak_ratio) for row in rows.values()] == [(2.0, 0.25), (1.0, 1.0)]
    assert [row.declared_state_bytes for row in rows.values()] == [2 * 4 * 2 * 32 * 4, 2 * 512 * 2 * 32 * 4]


def test_the_share_of_matrix_speed_is_that_of_the_flops_there_must_be(rows: dict[str, report.MeasuredSchedule]) -> None:
    # Width 32, MLP 88: 4 x 1,024 + 3 x 2,816 weights in each of two layers, 32 x 389 in the head; 6 FLOPs for each.
    weights = 6 * (2 * (4096 + 8448) + 12_448)
    # A query sees 8.5 keys of its segment of 16 in the mean, and four before: 128 FLOPs for each, forward; backward
    # as many again for those before, twice as many for its own.
    assert rows["2x4"].flops_per_token == weights + 2 * 128 * (4 * 2 + 8.5 * 3)
    # Over a piece of 128 tokens it sees 64.5 in the mean.
    assert rows["unlimited"].flops_per_token == weights + 2 * 128 * (56 * 2 + 8.5 * 3)
    assert rows["2x4"].matrix_share == pytest.approx(30 * rows["2x4"].flops_per_token / 1e9)


def test_the_speed_of_products_is_that_of_the_fastest(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 4.0, 10.0, 12.0, 20.0, 29.0])
    monkeypatch.setattr(training, "_now_s", lambda device: next(clock))
    monkeypatch.setattr(training, "PRODUCTS", 3)
    monkeypatch.setitem(training.PRODUCT_ROWS, "cpu", 100)
    assert training.matrix_flops_per_s(torch.device("cpu"), "fp32") == 2 * 100**3 / 2.0


def test_the_picture_shows_speed_and_memory(
    rows: dict[str, report.MeasuredSchedule], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    drawn: list[Any] = []
    monkeypatch.setattr(report, "save", lambda figure, _: drawn.append(figure))
    report.draw(rows, tmp_path / "b.png", reference="unlimited")
    speed, memory = drawn[0].axes
    assert [bar.get_width() for bar in speed.patches] == [30, 15]
    assert [bar.get_width() for bar in memory.patches] == [3, 12]
    assert [text.get_text() for text in memory.texts] == ["3  (0.25x)", "12  (1.00x)"]
    assert [label.get_text() for label in speed.get_yticklabels()] == ["2x4", "unlimited"]


def test_the_table_points_at_a_state_that_is_not_what_was_declared(
    run: Run, rows: dict[str, report.MeasuredSchedule], monkeypatch: pytest.MonkeyPatch
) -> None:
    measured = {name: replace(row.measured, state_bytes=row.declared_state_bytes) for name, row in rows.items()}
    measured["unlimited"] = replace(measured["unlimited"], state_bytes=3_000_000)
    monkeypatch.setattr(
        "ritornello.bench.training.measure_schedule",
        lambda schedule, _: measured["unlimited" if None in schedule.horizons else "2x4"],
    )
    outcome = run("2x4", "unlimited", "--layers", 2, *SMALL_OPTIONS)
    assert outcome.code == 0
    lines = [line.split() for line in outcome.err.splitlines()]
    assert next(words for words in lines if words[:1] == ["2x4"])[-2:] == ["the", "same"]
    assert next(words for words in lines if words[:1] == ["unlimited"])[-4:] == ["3.00", "MB", "0.26", "MB"]


# Parity.


def test_parity_is_of_every_kind_of_schedule_under_both_rules() -> None:
    kinds: dict[str, set[tuple[int | None, ...]]] = {"segment": set(), "sliding": set()}
    for schedule in parity.parity_schedules().values():
        kinds[schedule.rule].add(schedule.horizons)
    assert kinds["segment"] == kinds["sliding"]
    n = parity.LAYERS
    assert {(None,) * n, (0,) * n, (202, *(0,) * (n - 1)), (40,) * n} <= kinds["segment"]
    assert len(kinds["segment"]) == 12


def test_the_device_and_the_reference_agree(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ways: list[Attention | None] = []
    chosen = DSMR._attention
    monkeypatch.setattr(DSMR, "_attention", lambda *given: ways.append(chosen(*given)) or ways[-1])
    outcome = run("--parity", "--json")
    assert outcome.code == 0, outcome.err
    assert set(ways) == {plain, tiled}  # what is compared are two ways
    figures = json.loads(outcome.out)
    assert figures["passed"]
    assert len(figures["schedules"]) == 24
    errors = [row[what] for row in figures["schedules"] for what in ("logits_error", "gradients_error")]
    assert max(errors) < figures["tolerance"] <= 1e-4
    assert np.count_nonzero(errors) > len(errors) / 2  # without memories both may come to the same bits


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_key_too_few_fails_it(run: Run, monkeypatch: pytest.MonkeyPatch, precision: str) -> None:
    def one_key_short(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, span: Any) -> Tensor:
        horizon = span.horizon - 1 if span.horizon else span.horizon
        return plain(q, k, v, memory_k, memory_v, replace(span, horizon=horizon))

    texts = ("uniform(0)", "uniform(30)", "uniform(30) sliding", "unlimited")
    schedules = {text: HorizonSchedule.parse(text, layers=3) for text in texts}
    monkeypatch.setattr(parity, "parity_schedules", lambda: schedules)
    assert run("--parity", "--precision", precision).code == 0
    monkeypatch.setattr(DSMR, "_attention", lambda self, *_: self.attention or one_key_short)
    outcome = run("--parity", "--precision", precision)
    assert outcome.code == 1
    assert "parity fails for 2 of 4" in outcome.err


def test_an_error_that_is_no_number_is_an_error() -> None:
    assert parity.Parity(1e-6, 1e-6).within(1e-5)
    assert not parity.Parity(float("nan"), 0.0).within(1e-5)
    assert not parity.Parity(0.0, float("nan")).within(1e-5)
    assert not parity.Parity(0.0, 2e-5).within(1e-5)


# Bad input.


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], ["'nonsense'", "unknown"]),
        (["2x64"], ["2 layers, the model has 8"]),
        (["--heads", 3], ["width 256", "heads (3)"]),
        (["--steps", 1], ["steps is 1", "between 2 and"]),
        (["--lanes", 0], ["lanes is 0"]),
        (["--piece", 1000], ["1000", "segments of 512", "give it 1024"]),
        (["--piece", 1024], ["no 8 segments of 512", "fewer steps"]),
        (["uniform(10000000)"], ["8x10000000", "1,310.7 GB", "free"]),
        (["--png", "/nowhere/b.png"], ["/nowhere/b.png", "folder"]),
        (["--parity", "unlimited"], ["--parity", "leave SPEC"]),
        (["--parity", "--png", "b.png"], ["--parity", "--png"]),
        (["--precision", "fp8"], ["precision", "fp8"]),
    ],
)
def test_what_cannot_be_measured_is_refused_in_one_line(run: Run, arguments: list[object], words: list[str]) -> None:
    outcome = run(*arguments)
    assert outcome.code == 2
    assert outcome.out == ""
    assert outcome.err.startswith("error: ")
    assert outcome.err.count("\n") == 1, outcome.err
    for word in words:
        assert word in outcome.err
