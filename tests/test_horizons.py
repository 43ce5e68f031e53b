"""Schedules: their text, their limits, what a query sees and how far influence reaches."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.errors import RitornelloError
from ritornello.horizons import MAX_HORIZON_TOKENS, HorizonSchedule, Rule, visible

RULES = st.sampled_from(("segment", "sliding"))


def schedules(most: int, *, limited: bool = False) -> st.SearchStrategy[HorizonSchedule]:
    horizon = st.integers(0, most) if limited else st.none() | st.integers(0, most)
    return st.builds(HorizonSchedule, st.lists(horizon, min_size=1, max_size=6).map(tuple), RULES)


def first_seen(query: int, horizon: int | None, segment_tokens: int, rule: Rule) -> int:
    """The formula of design.md: the first key that a query sees."""
    if horizon is None:
        return 0
    start = query - query % segment_tokens
    return max(0, start - horizon if rule == "segment" else min(start, query - horizon))


# Text.


@settings(deadline=None)
@given(schedules(MAX_HORIZON_TOKENS))
def test_the_text_of_a_schedule_parses_back_to_it(schedule: HorizonSchedule) -> None:
    assert HorizonSchedule.parse(str(schedule)) == schedule
    assert HorizonSchedule.parse(str(schedule), layers=schedule.layers) == schedule


@pytest.mark.parametrize(
    ("text", "layers", "horizons", "rule"),
    [
        ("512", None, (512,), "segment"),
        ("2x4096, 6x512", None, (4096,) * 2 + (512,) * 6, "segment"),
        ("2 x 4096,6x512", 8, (4096,) * 2 + (512,) * 6, "segment"),
        ("  [0, 1, 2] ", None, (0, 1, 2), "segment"),
        ("unlimited, 7x0", None, (None,) + (0,) * 7, "segment"),
        ("3xunlimited sliding", None, (None,) * 3, "sliding"),
        ("4, 0 segment", None, (4, 0), "segment"),
        ("two_scale(long=2x4096, short=512)", 8, (4096,) * 2 + (512,) * 6, "segment"),
        ("two_scale(2x4096, 512) sliding", 3, (4096, 4096, 512), "sliding"),
        ("two_scale(long=1x9, short=2x3)", None, (9, 3, 3), "segment"),
        ("two_scale(short=3, long=2x9)", 2, (9, 9), "segment"),
        ("uniform(512)", 4, (512,) * 4, "segment"),
        ("uniform(horizon=0)", 2, (0, 0), "segment"),
        ("uniform(3x7)", None, (7, 7, 7), "segment"),
        ("unlimited", 3, (None,) * 3, "segment"),
        ("uniform(budget=1027)", 4, (256,) * 4, "segment"),
        ("unlimited()", 1, (None,), "segment"),
        ("perceiver_ar(long=8192)", 4, (8192, 0, 0, 0), "segment"),
        ("perceiver_ar(budget=8192) sliding", 4, (8192, 0, 0, 0), "sliding"),
        ("perceiver_ar(7)", 1, (7,), "segment"),
        # 8192 - 6 x 256 = 6656 for two; 10 - 1 = 9 for two, of which one token is left over
        ("two_scale(budget=8192, long_layers=2, short=256)", 8, (3328,) * 2 + (256,) * 6, "segment"),
        ("two_scale(short=1, long_layers=2, budget=10)", 3, (4, 4, 1), "segment"),
        ("two_scale(budget=8, long_layers=2, short=2)", 4, (2, 2, 2, 2), "segment"),
        ("binary(long=2048, layers=1-4)", 8, (2048,) * 4 + (0,) * 4, "segment"),
        ("binary(long=5, layers=1+3-4)", 5, (5, 0, 5, 5, 0), "segment"),
        ("binary(long=5, layers=2 + 2)", 2, (0, 5), "segment"),
        ("binary(5, odd)", 5, (5, 0, 5, 0, 5), "segment"),
        ("binary(budget=11, layers=even) sliding", 4, (0, 5, 0, 5), "sliding"),
        ("binary(budget=11, layers=2-4)", 4, (0, 3, 3, 3), "segment"),
        ("ascending(low=1, high=10)", 4, (1, 4, 7, 10), "segment"),
        ("ascending(low=0, high=5)", 3, (0, 3, 5), "segment"),
        ("ascending(3, 3)", 1, (3,), "segment"),
        ("descending(low=1, high=10)", 4, (10, 7, 4, 1), "segment"),
        # sixths of 3: 0.5, 1, 1.5; of 8: 1.33, 2.67, 4; of 10: 1.67, 3.33, 5
        ("ascending(budget=3)", 3, (0, 1, 2), "segment"),
        ("ascending(budget=8)", 3, (1, 3, 4), "segment"),
        ("descending(budget=10) sliding", 3, (5, 3, 2), "sliding"),
        ("ascending(budget=8192)", 8, (228, 455, 683, 910, 1138, 1365, 1593, 1820), "segment"),
    ],
)
def test_a_text_names_a_schedule(text: str, layers: int | None, horizons: tuple[int | None, ...], rule: Rule) -> None:
    assert HorizonSchedule.parse(text, layers=layers) == HorizonSchedule(horizons, rule)


@pytest.mark.parametrize(
    ("text", "layers", "mistake"),
    [
        ("", None, "not a horizon"),
        ("sliding", None, "unknown"),
        ("2x4096; 6x512", None, "'2x4096; 6x512' is not a horizon"),
        ("4096,", None, "'' is not a horizon"),
        ("-1", None, "'-1' is not a horizon"),
        ("1.5", None, "'1.5' is not a horizon"),
        ("1e3", None, "'1e3' is not a horizon"),
        ("5\n6", None, "not a horizon"),
        ("0x512", None, "0 layers"),
        ("1001x512", None, "1,001 layers"),
        ("10000001", None, "layer 1 has horizon 10000001"),
        ("0, 10000001", None, "layer 2 has horizon 10000001"),
        ("9" * 5000, None, "horizon"),
        (f"{'9' * 5000}x4", None, "horizon"),
        ("2x4096, 6x512", 6, "8 layers, the model has 6"),
        ("512", 2, "1 layer, the model has 2"),
        ("three_scale(1, 2, 3)", 8, "unknown"),
        ("two_scale(long=2x4096)", 8, "it takes long, short"),
        ("two_scale(2x4096, 512, 7)", 8, "it takes long, short"),
        ("two_scale(2x4096, 512, long=3)", 8, "it takes long, short"),
        ("two_scale(long=2x4096, shirt=512)", 8, "it takes long, short"),
        ("two_scale(long=2x4096, short=512", 8, "not a horizon"),
        ("two_scale(long=9x4096, short=512)", 8, "9 layers, the model has 8"),
        ("two_scale(long=2x4096, short=512)", None, "how many layers"),
        ("uniform", 8, "it takes horizon"),
        ("uniform(512)", None, "how many layers"),
        ("uniform(horizon=512, horizon=256)", 8, "horizon is given twice"),
        ("unlimited(3)", 8, "it takes nothing"),
        ("unlimited", None, "how many layers"),
        ("unlimited(budget=8)", 8, "it takes nothing"),
        ("binary(long=4, layers=1)", None, "how many layers"),
        ("ascending(budget=64)", None, "how many layers"),
        ("perceiver_ar(budget=7)", 8, "a budget of 7 tokens is smaller than the depth of 8 layers; give at least 8"),
        ("uniform(budget=7)", 8, "smaller than the depth"),
        ("ascending(budget=0)", 8, "smaller than the depth"),
        ("binary(budget=7, layers=1)", 8, "smaller than the depth"),
        ("two_scale(budget=7, long_layers=1, short=0)", 8, "smaller than the depth"),
        ("two_scale(budget=799, long_layers=2, short=100)", 8, "smaller than 8 layers of 100; give at least 800"),
        ("two_scale(budget=799, long_layers=0, short=9)", 8, "a budget needs a long layer"),
        ("two_scale(budget=799, long_layers=9, short=9)", 8, "8 layers cannot have 9 long ones"),
        ("two_scale(budget=799, long=2x4, short=9)", 8, "it takes long, short or budget, long_layers, short"),
        ("uniform(budget=-8)", 8, "budget is '-8': write a whole number"),
        ("uniform(budget=80.5)", 8, "budget is '80.5': write a whole number"),
        ("uniform(budget=80000008)", 8, "layer 1 has horizon 10000001"),
        ("uniform(horizon=3, budget=80)", 8, "it takes horizon or budget"),
        ("perceiver_ar(long=-1)", 8, "long is '-1': write a whole number"),
        ("ascending(low=0.5, high=3)", 8, "low is '0.5': write a whole number"),
        ("ascending(low=4, high=3)", 8, "low must not exceed high"),
        ("descending(low=4, high=3)", 8, "low must not exceed high"),
        ("descending(low=3, high=4)", 1, "1 layer cannot grow from 3 to 4"),
        ("binary(long=4, layers=9)", 8, "layers is '9', the model has 8"),
        ("binary(long=4, layers=2-999999999)", 8, "the model has 8"),
        ("binary(long=4, layers=0)", 8, "write a choice such as 1-4, 1+3+5, odd or even"),
        ("binary(long=4, layers=4-2)", 8, "write a choice"),
        ("binary(long=4, layers=1+)", 8, "write a choice"),
        ("binary(long=4, layers=-3)", 8, "write a choice"),
        ("binary(long=4, layers=even)", 1, "choose one or more"),
        ("binary(long=4, layers=1, 3)", 8, "it takes long, layers or budget, layers"),
    ],
)
def test_a_text_that_names_no_schedule_is_refused_in_one_line(text: str, layers: int | None, mistake: str) -> None:
    with one_line(f"schedule {text!r}: ", mistake):
        HorizonSchedule.parse(text, layers=layers)


WORDS = [
    "2x",
    "unlimited",
    "uniform",
    "two_scale",
    "(",
    ")",
    "=",
    ",",
    " ",
    "\n",
    "7",
    "x",
    "long",
    "layers",
    "budget",
    "binary(",
    "ascending(",
    "odd",
    "+",
    "sliding",
    "-",
    "²",
]


@settings(deadline=None)
@given(st.text(max_size=30) | st.lists(st.sampled_from(WORDS), max_size=8).map("".join), st.none() | st.integers(-1, 9))
def test_any_text_is_a_schedule_or_refused_in_one_line(text: str, layers: int | None) -> None:
    refusal = None
    try:
        schedule = HorizonSchedule.parse(text, layers=layers)
    except RitornelloError as error:
        refusal = str(error)
    if refusal is None:
        assert layers in (None, schedule.layers)
    else:
        assert len(refusal.splitlines()) == 1
        assert repr(text) in refusal


# Constructors and limits.


def test_constructors_spend_horizons_lowest_layer_first() -> None:
    assert HorizonSchedule.two_scale(layers=5, n_long=2, long=9, short=3).horizons == (9, 9, 3, 3, 3)
    assert HorizonSchedule.two_scale(layers=2, n_long=0, long=9, short=3).horizons == (3, 3)
    assert HorizonSchedule.two_scale(layers=2, n_long=2, long=9, short=3).horizons == (9, 9)
    assert HorizonSchedule.uniform(layers=3, horizon=0).horizons == (0, 0, 0)
    assert HorizonSchedule.unlimited(layers=2).horizons == (None, None)


def test_a_text_and_the_constructor_of_its_name_agree() -> None:
    of = HorizonSchedule
    pairs = {
        "unlimited": of.unlimited(layers=6),
        "perceiver_ar(long=80)": of.perceiver_ar(layers=6, long=80),
        "perceiver_ar(budget=80)": of.perceiver_ar(layers=6, budget=80),
        "two_scale(long=2x9, short=3)": of.two_scale(layers=6, n_long=2, long=9, short=3),
        "two_scale(budget=80, long_layers=2, short=3)": of.two_scale(layers=6, n_long=2, short=3, budget=80),
        "binary(long=9, layers=2+4)": of.binary(layers=6, remembering=(4, 2), long=9),
        "binary(budget=80, layers=2-4)": of.binary(layers=6, remembering={2, 3, 4}, budget=80),
        "ascending(low=2, high=9)": of.ascending(layers=6, low=2, high=9),
        "ascending(budget=80)": of.ascending(layers=6, budget=80),
        "descending(low=2, high=9)": of.descending(layers=6, low=2, high=9),
        "descending(budget=80)": of.descending(layers=6, budget=80),
        "uniform(9)": of.uniform(layers=6, horizon=9),
        "uniform(budget=80)": of.uniform(layers=6, budget=80),
    }
    assert {text: HorizonSchedule.parse(text, layers=6) for text in pairs} == pairs


@pytest.mark.parametrize(
    ("arguments", "mistake"),
    [
        ({}, "either horizon or a budget"),
        ({"horizon": 4, "budget": 8}, "either horizon or a budget"),
        ({"budget": 8.5}, "the budget is 8.5; it must be whole tokens"),
        ({"budget": True}, "the budget is True"),
        ({"budget": -8}, "smaller than the depth of 2 layers"),
        ({"budget": 1}, "smaller than the depth of 2 layers; give at least 2"),
        ({"budget": 8, "layers": 0}, "at least one layer"),
    ],
)
def test_a_budget_is_whole_tokens_for_every_layer_and_stands_alone(arguments: dict[str, Any], mistake: str) -> None:
    with pytest.raises(RitornelloError, match=mistake):
        HorizonSchedule.uniform(**{"layers": 2, **arguments})
    if "horizon" not in arguments:
        with pytest.raises(RitornelloError, match=mistake.replace("horizon", "low and high")):
            HorizonSchedule.ascending(**{"layers": 2, **arguments})


def test_half_of_a_slope_and_layers_that_are_not_there_are_refused() -> None:
    with pytest.raises(RitornelloError, match="either low and high or a budget"):
        HorizonSchedule.descending(layers=3, low=4)
    for remembering in ((), (0,), (4,), (1, -1)):
        with pytest.raises(RitornelloError, match="choose one or more of layers 1 to 3"):
            HorizonSchedule.binary(layers=3, remembering=remembering, long=4)


@pytest.mark.parametrize("horizon", [-1, 1.0, 1.5, True, "4", MAX_HORIZON_TOKENS + 1])
def test_a_horizon_that_is_no_number_of_tokens_is_refused_by_layer_and_value(horizon: Any) -> None:
    with one_line(f"layer 2 has horizon {horizon!r}"):
        HorizonSchedule((MAX_HORIZON_TOKENS, horizon))


def test_other_impossible_schedules_are_refused() -> None:
    with pytest.raises(RitornelloError, match="at least one layer"):
        HorizonSchedule(())
    with pytest.raises(RitornelloError, match="unknown rule 'moving'"):
        HorizonSchedule((4,), "moving")  # type: ignore[arg-type]
    for n_long in (-1, 3):
        with pytest.raises(RitornelloError, match=f"2 layers cannot have {n_long} long ones"):
            HorizonSchedule.two_scale(layers=2, n_long=n_long, long=4, short=2)


# What a query sees.


def test_a_hand_computed_case_of_both_rules() -> None:
    # S = 4, H = 2: query 6 stands in the segment 4..7, whose horizon begins at 2; its own begins at 4.
    query: dict[str, Any] = {"horizon": 2, "segment_tokens": 4}
    assert [key for key in range(-3, 9) if visible(6, key, **query)] == [2, 3, 4, 5, 6]
    assert [key for key in range(-3, 9) if visible(6, key, **query, rule="sliding")] == [4, 5, 6]
    assert [key for key in range(-3, 9) if visible(5, key, **query, rule="sliding")] == [3, 4, 5]
    assert [key for key in range(-3, 9) if visible(6, key, horizon=None, segment_tokens=4)] == [0, 1, 2, 3, 4, 5, 6]


@settings(deadline=None)
@given(st.none() | st.integers(0, 40), st.integers(1, 9), RULES)
def test_what_a_query_sees_is_the_formula_for_ints_numpy_and_torch(
    horizon: int | None, segment_tokens: int, rule: Rule
) -> None:
    queries, keys = range(30), range(-12, 34)
    expected = [[first_seen(q, horizon, segment_tokens, rule) <= k <= q for k in keys] for q in queries]
    how: dict[str, Any] = {"horizon": horizon, "segment_tokens": segment_tokens, "rule": rule}
    assert [[bool(visible(q, k, **how)) for k in keys] for q in queries] == expected
    for signed in (np.int64, np.int32, np.int16):
        seen = visible(np.array(queries, signed)[:, None], np.array(keys, signed), **how)
        assert seen.dtype == np.bool_
        assert seen.tolist() == expected
    seen = visible(torch.tensor(queries)[:, None], torch.tensor(keys), **how)
    assert seen.dtype == torch.bool
    assert seen.tolist() == expected


# Reach.


def searched_reach(schedule: HorizonSchedule, position: int, segment_tokens: int) -> set[int]:
    """Positions that influence an output, searched layer by layer from the top over everything that is visible."""
    reached = {position}
    for horizon in reversed(schedule.horizons):
        how: dict[str, Any] = {"horizon": horizon, "segment_tokens": segment_tokens, "rule": schedule.rule}
        reached = {key for query in reached for key in range(query + 1) if visible(query, key, **how)}
    return reached


@settings(max_examples=40, deadline=None)
@given(schedules(12), st.integers(1, 6), st.integers(0, 60))
def test_the_first_reached_position_is_the_one_that_a_search_finds(
    schedule: HorizonSchedule, segment_tokens: int, position: int
) -> None:
    reached = searched_reach(schedule, position, segment_tokens)
    first = schedule.first_reached(position, segment_tokens=segment_tokens)
    assert reached == set(range(first, position + 1))


@settings(max_examples=25, deadline=None)
@given(schedules(5, limited=True).filter(lambda s: s.layers <= 3), st.integers(1, 5))
def test_the_reach_is_the_longest_that_a_search_finds(schedule: HorizonSchedule, segment_tokens: int) -> None:
    far = sum(h or 0 for h in schedule.horizons) + (schedule.layers + 2) * segment_tokens
    lengths = [q - min(searched_reach(schedule, q, segment_tokens)) for q in range(far + segment_tokens)]
    assert schedule.reach_tokens(segment_tokens=segment_tokens) == max(lengths)


def test_hand_computed_reaches() -> None:
    # From the last token of a segment: 511 to its start and 1024 more; below, from a border, 1024 more again.
    assert HorizonSchedule.uniform(layers=1, horizon=1024).reach_tokens(segment_tokens=512) == 511 + 1024
    assert HorizonSchedule.uniform(layers=2, horizon=1024).reach_tokens(segment_tokens=512) == 511 + 2 * 1024
    # 300 before a border lies 212 inside a segment: its start, and 300 before that.
    assert HorizonSchedule.uniform(layers=2, horizon=300).reach_tokens(segment_tokens=512) == 511 + 512 + 300
    assert HorizonSchedule((1024, 1024), "sliding").reach_tokens(segment_tokens=512) == 2 * 1024
    assert HorizonSchedule.uniform(layers=8, horizon=0).reach_tokens(segment_tokens=512) == 511
    assert HorizonSchedule((0, None)).reach_tokens(segment_tokens=512) is None
