"""Memories that would not fit a machine are refused before training, with the bytes; others are not."""

from __future__ import annotations

import pytest
import torch
from tiny import tiny_config

from ritornello.errors import RitornelloError
from ritornello.horizons import MAX_HORIZON_TOKENS, HorizonSchedule
from ritornello.training import fitting

CPU = torch.device("cpu")


def free(monkeypatch: pytest.MonkeyPatch, count: int | None) -> None:
    monkeypatch.setattr(fitting, "free_bytes", lambda device: count)


def check(*horizons: int | None, width: int = 32, lanes: int = 4, piece_tokens: int = 1000) -> None:
    model = tiny_config(schedule=HorizonSchedule(horizons), width=width)
    fitting.check_fits(model, lanes=lanes, piece_tokens=piece_tokens, device=CPU)


def test_an_unlimited_layer_counts_as_the_longest_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    # (1,000 + 200) tokens, a key and a value of 32 numbers of 4 bytes each, in 4 lanes, before and after a step.
    needed = 1200 * (32 + 32) * 4 * 4 * 2
    free(monkeypatch, needed)
    check(None, 200)
    free(monkeypatch, needed - 1)
    with pytest.raises(RitornelloError) as refused:
        check(None, 200)
    message = str(refused.value)
    assert "unlimited, 200" in message
    assert "2.5 MB" in message  # 2,457,600 bytes
    assert "1,000 tokens in 4 lanes" in message
    assert "\n" not in message


def test_groups_of_lanes_rest_with_their_memories(monkeypatch: pytest.MonkeyPatch) -> None:
    # Three groups: those of two rest, and of the third there is what was before a step and what is after it.
    model = tiny_config(schedule=HorizonSchedule((1000, 200)), width=32)
    needed = 1200 * (32 + 32) * 4 * 4 * (2 + 2)
    free(monkeypatch, needed)
    fitting.check_fits(model, lanes=4, groups=3, piece_tokens=1000, device=CPU)
    free(monkeypatch, needed - 1)
    with pytest.raises(RitornelloError, match="12 lanes"):
        fitting.check_fits(model, lanes=4, groups=3, piece_tokens=1000, device=CPU)


def test_of_runs_side_by_side_the_largest_may_meet(monkeypatch: pytest.MonkeyPatch) -> None:
    needed = [300_000, 5_000_000, 100, 2_000_000]
    free(monkeypatch, 7_000_000)
    fitting.check_fits_at_once(needed, 2, CPU)
    free(monkeypatch, 6_999_999)
    with pytest.raises(RitornelloError, match=r"jobs is 2: .* up to 7\.0 MB, 7\.0 MB are free") as refused:
        fitting.check_fits_at_once(needed, 2, CPU)
    assert "\n" not in str(refused.value)
    fitting.check_fits_at_once(needed[:1], 2, CPU)
    fitting.check_fits_at_once([], 2, CPU)


def test_no_horizon_costs_more_than_the_longest_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, 2000 * 64 * 4 * 4 * 2)
    check(MAX_HORIZON_TOKENS, MAX_HORIZON_TOKENS)


@pytest.mark.parametrize(
    ("width", "lanes", "needed"), [(1 << 16, 1024, "1,073.7 GB"), (1 << 10, 64, "1.0 GB"), (4, 1, "64.0 kB")]
)
def test_the_bytes_are_said_in_a_unit_that_shows_them(
    monkeypatch: pytest.MonkeyPatch, width: int, lanes: int, needed: str
) -> None:
    free(monkeypatch, 500)
    with pytest.raises(RitornelloError, match=f"would take {needed} .* 0.5 kB are free"):
        check(None, 0, width=width, lanes=lanes)


def test_a_system_that_does_not_say_what_is_free_refuses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    free(monkeypatch, None)
    check(None, None, piece_tokens=10**12)


def test_this_machine_says_what_is_free() -> None:
    found = fitting.free_bytes(CPU)
    assert found is None or 2**20 < found < 2**60
