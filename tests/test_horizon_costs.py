"""What schedules spend: budgets shared over depth to the token, the study's rows under one, bytes, keys and FLOPs."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.horizons import MAX_HORIZON_TOKENS, HorizonSchedule, Rule, requested, visible
from ritornello.horizons.costs import costs_of, mean_keys_seen
from ritornello.horizons.text import study_texts

# Budgets.


@st.composite
def budgeted(draw: st.DrawFn) -> tuple[str, int, int, int]:
    """A text with a budget, the depth, the budget, and how many layers share what is left to share out."""
    layers = draw(st.integers(1, 20))
    budget = draw(st.integers(layers, 400) | st.integers(layers, MAX_HORIZON_TOKENS))
    long_layers = draw(st.integers(1, layers))
    short = draw(st.integers(0, budget // layers))
    chosen = draw(st.sets(st.integers(1, layers), min_size=1))
    text, sharing = draw(
        st.sampled_from(
            [
                (f"perceiver_ar(budget={budget})", 1),
                (f"two_scale(budget={budget}, long_layers={long_layers}, short={short})", long_layers),
                (f"binary(budget={budget}, layers={'+'.join(map(str, chosen))})", len(chosen)),
                (f"ascending(budget={budget})", 1),
                (f"descending(budget={budget})", 1),
                (f"uniform(budget={budget})", layers),
            ]
        )
    )
    return text + draw(st.sampled_from(["", " sliding"])), layers, budget, sharing


@settings(deadline=None)
@given(budgeted())
def test_a_budget_is_never_exceeded_and_what_is_left_could_not_be_shared(case: tuple[str, int, int, int]) -> None:
    text, layers, budget, sharing = case
    request = requested(text, layers=layers)
    spent = sum(h or 0 for h in request.schedule.horizons)
    assert 0 <= budget - spent < sharing
    assert request.budget_tokens == budget
    assert (request.change is None) == (spent == budget)
    assert request.schedule == HorizonSchedule.parse(text, layers=layers)
    assert HorizonSchedule.parse(str(request.schedule), layers=layers) == request.schedule


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 100_000))
def test_slopes_are_monotone_mirrored_and_within_a_token_of_a_straight_line(layers: int, more: int) -> None:
    budget = layers + more
    up = [h or 0 for h in HorizonSchedule.ascending(layers=layers, budget=budget).horizons]
    whole = sum(range(layers + 1))
    assert up == sorted(up)
    assert all(abs(h * whole - budget * layer) < whole for layer, h in enumerate(up, 1))
    assert HorizonSchedule.descending(layers=layers, budget=budget).horizons == tuple(reversed(up))


def test_what_became_of_a_budget_is_said() -> None:
    assert requested("uniform(budget=8192)", layers=8).change is None
    assert requested("8x1023", layers=8).change is None
    change = requested("uniform(budget=8199)", layers=8).change
    assert change is not None
    assert "8,199" in change
    assert "8,192" in change


@settings(deadline=None)
@given(st.integers(1, 40), st.integers(0, 10_000))
def test_the_rows_of_the_study_are_there_for_every_depth_and_budget(layers: int, more: int) -> None:
    rows = study_texts(layers=layers, budget_tokens=layers + more)
    schedules = {name: HorizonSchedule.parse(text, layers=layers) for name, text in rows.items()}
    assert schedules.pop("full memory").budget_tokens is None
    for name, schedule in schedules.items():
        assert schedule.budget_tokens is not None
        assert 0 <= layers + more - schedule.budget_tokens < layers, name


def test_the_rows_of_the_study_at_eight_layers() -> None:
    rows = study_texts(layers=8, budget_tokens=8192)
    assert {name: str(HorizonSchedule.parse(text, layers=8)) for name, text in rows.items()} == {
        "full memory": "8xunlimited",
        "Perceiver-AR-like": "8192, 7x0",
        "two-scale": "2x3328, 6x256",
        "binary, low layers": "4x2048, 4x0",
        "binary, high layers": "4x0, 4x2048",
        "binary, alternating": "2048, 0, 2048, 0, 2048, 0, 2048, 0",
        "binary, sliding": "2048, 0, 2048, 0, 2048, 0, 2048, 0 sliding",
        "ascending": "228, 455, 683, 910, 1138, 1365, 1593, 1820",
        "descending": "1820, 1593, 1365, 1138, 910, 683, 455, 228",
        "uniform": "8x1024",
    }


# Costs.


def test_hand_computed_budget_and_bytes() -> None:
    two_scale = HorizonSchedule.two_scale(layers=8, n_long=2, long=4096, short=512)
    assert two_scale.layers == 8
    assert two_scale.budget_tokens == 11_264
    # 11,264 slots x (256 numbers of a key + 256 of a value) x 4 bytes
    costs = costs_of(two_scale, width=256, segment_tokens=512, piece_tokens=16_384)
    assert costs.state_bytes == {"fp32": 23_068_672, "bf16": 11_534_336, "int8": 5_767_168}
    assert HorizonSchedule((0, None)).budget_tokens is None


def test_hand_computed_keys_seen() -> None:
    how: dict[str, Any] = {"segment_tokens": 4, "piece_tokens": None}
    assert mean_keys_seen(2, rule="segment", **how) == (3 + 4 + 5 + 6) / 4
    assert mean_keys_seen(2, rule="sliding", **how) == (3 + 3 + 3 + 4) / 4
    assert mean_keys_seen(0, rule="sliding", **how) == (1 + 2 + 3 + 4) / 4
    # From a piece's start on: the second segment has all of its horizon, the first has none.
    assert mean_keys_seen(2, rule="segment", segment_tokens=4, piece_tokens=7) == (1 + 2 + 3 + 4 + 3 + 4 + 5) / 7
    assert mean_keys_seen(None, rule="segment", segment_tokens=4, piece_tokens=5) == (1 + 2 + 3 + 4 + 5) / 5
    with pytest.raises(ValueError, match="never full"):
        mean_keys_seen(None, rule="segment", **how)


@settings(max_examples=40, deadline=None)
@given(st.none() | st.integers(0, 25), st.sampled_from(("segment", "sliding")), st.integers(1, 9), st.integers(1, 40))
def test_the_keys_seen_are_those_that_are_visible(
    horizon: int | None, rule: Rule, segment_tokens: int, piece_tokens: int
) -> None:
    how: dict[str, Any] = {"rule": rule, "segment_tokens": segment_tokens}

    def counted(queries: range) -> float:
        seen = [visible(q, k, horizon=horizon, **how) for q in queries for k in range(q + 1)]
        return sum(seen) / len(queries)

    exact = mean_keys_seen(horizon, piece_tokens=piece_tokens, **how)
    assert exact == pytest.approx(counted(range(piece_tokens)), rel=1e-12)
    if horizon is not None:
        far = 30 * segment_tokens  # 30 tokens or more, and so beyond every horizon drawn
        exact = mean_keys_seen(horizon, piece_tokens=None, **how)
        assert exact == pytest.approx(counted(range(far, far + segment_tokens)), rel=1e-12)


def test_hand_computed_costs() -> None:
    sizes: dict[str, Any] = {"width": 256, "segment_tokens": 512, "piece_tokens": 16_384}
    uniform = costs_of(HorizonSchedule.uniform(layers=8, horizon=1024), **sizes)
    assert uniform.budget_tokens == 8192
    assert uniform.state_bytes == {"fp32": 16_777_216, "bf16": 8_388_608, "int8": 4_194_304}
    # 8 layers x 1024 + 256.5 keys x (512 for the score + 512 for the sum); in a piece the first two of its 32 segments
    # lack 1024 and 512 of these keys.
    assert uniform.full_attention_flops_per_token == 8 * 1280.5 * 1024
    assert uniform.attention_flops_per_token == 8 * (1280.5 - (1024 + 512) / 32) * 1024
    assert uniform.reach_tokens == 8 * 1024 + 511
    mixed = costs_of(HorizonSchedule((None, 0), "sliding"), **sizes)
    assert mixed.budget_tokens is mixed.reach_tokens is mixed.full_attention_flops_per_token is None
    assert mixed.state_bytes["bf16"] == 16_384 * 2 * 256 * 2
    assert mixed.attention_flops_per_token == (8192.5 + 256.5) * 1024
