"""Sampling: the right events stay in, with the right shares; nothing illegal is drawn; one number makes one event."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.sampling import Sampling

ALL = np.ones(5, bool)
# Shares of 16ths, in no order: 1/16, 8/16, 2/16, 4/16, 1/16.
SIXTEENTHS = np.log(np.array([1, 8, 2, 4, 1]) / 16).astype(np.float32)


class Fixed:
    """In place of a random generator: gives the numbers that it is given."""

    def __init__(self, *numbers: float) -> None:
        self.numbers = list(numbers)

    def random(self) -> float:
        return self.numbers.pop(0)


def kept(sampling: Sampling, logits: np.ndarray = SIXTEENTHS, legal: np.ndarray = ALL) -> list[int]:
    return np.flatnonzero(sampling.probabilities(logits, legal)).tolist()


def test_without_any_cut_the_probabilities_are_the_softmax_over_the_legal_events():
    legal = np.array([True, False, True, True, True])
    p = Sampling(1.0, 1.0, 0.0).probabilities(SIXTEENTHS, legal)
    np.testing.assert_allclose(p, [1 / 8, 0, 2 / 8, 4 / 8, 1 / 8], rtol=1e-6)


@pytest.mark.parametrize(
    ("temperature", "weights"),
    [(0.5, [1, 64, 4, 16, 1]), (2.0, [1, 8**0.5, 2**0.5, 2, 1]), (100.0, [1, 8**0.01, 2**0.01, 4**0.01, 1])],
)
def test_temperature_is_the_root_of_the_shares(temperature, weights):
    p = Sampling(temperature, 1.0, 0.0).probabilities(SIXTEENTHS, ALL)
    np.testing.assert_allclose(p, np.array(weights) / sum(weights), rtol=1e-6)


@pytest.mark.parametrize(
    ("top_p", "events"),
    [
        (0.01, [1]),
        (0.49, [1]),
        (0.51, [1, 3]),
        (0.74, [1, 3]),
        (0.76, [1, 2, 3]),
        (0.87, [1, 2, 3]),
        (0.88, [0, 1, 2, 3]),
        (0.99, [0, 1, 2, 3, 4]),
        (1.0, [0, 1, 2, 3, 4]),
    ],
)
def test_top_p_keeps_the_likeliest_that_together_reach_it(top_p, events):
    assert kept(Sampling(1.0, top_p)) == events


def test_top_p_stops_where_it_is_reached_exactly():
    assert kept(Sampling(1.0, 0.5), np.zeros(4), np.ones(4, bool)) == [0, 1]


@pytest.mark.parametrize(
    ("min_p", "events"),
    [(0.12, [0, 1, 2, 3, 4]), (0.13, [1, 2, 3]), (0.24, [1, 2, 3]), (0.26, [1, 3]), (0.51, [1]), (1.0, [1])],
)
def test_min_p_keeps_what_is_at_least_that_share_as_likely_as_the_likeliest(min_p, events):
    assert kept(Sampling(1.0, 1.0, min_p)) == events


def test_what_is_left_is_weighed_as_before():
    p = Sampling(1.0, 0.76).probabilities(SIXTEENTHS, ALL)
    np.testing.assert_allclose(p, [0, 8 / 14, 2 / 14, 4 / 14, 0], rtol=1e-6)


def test_the_cuts_are_made_after_the_temperature_and_among_legal_events_alone():
    """At temperature 0.5 the shares of events 0, 2, 3 and 4 are 1, 4, 16 and 1 of 22."""
    legal = np.array([True, False, True, True, True])
    assert kept(Sampling(0.5, 16 / 22 - 0.01), legal=legal) == [3]
    assert kept(Sampling(0.5, 16 / 22 + 0.01), legal=legal) == [2, 3]
    assert kept(Sampling(0.5, 1.0, 0.24), legal=legal) == [2, 3]
    assert kept(Sampling(0.5, 1.0, 0.26), legal=legal) == [3]


@settings(deadline=None)
@given(
    logits=st.lists(st.integers(-24, 24), min_size=1, max_size=12),
    top_p=st.floats(0.01, 1),
    min_p=st.floats(0, 1),
)
def test_top_p_and_min_p_agree_with_brute_force(logits, top_p, min_p):
    weights = [math.exp(value / 4) for value in logits]
    shares = [weight / math.fsum(weights) for weight in weights]
    expected, reached = [], 0.0
    for event in sorted(range(len(shares)), key=lambda event: (-logits[event], event)):
        if top_p < 1 and abs(reached - top_p) < 1e-9:
            return  # too close to say
        if reached < top_p or top_p == 1:
            expected.append(event)
        reached += shares[event]
    if any(abs(shares[event] / max(shares) - min_p) < 1e-9 and min_p < 1 for event in expected):
        return
    expected = [event for event in expected if shares[event] / max(shares) >= min_p - 1e-12]
    assert kept(Sampling(1.0, top_p, min_p), np.array(logits) / 4, np.ones(len(logits), bool)) == sorted(expected)


def test_temperature_0_takes_the_likeliest_legal_event():
    greedy, rng = Sampling(0.0, 0.5, 0.5), np.random.default_rng(1)
    assert {greedy.draw(SIXTEENTHS, ALL, rng) for _ in range(50)} == {1}
    assert {greedy.draw(SIXTEENTHS, np.array([True, False, True, True, True]), rng) for _ in range(50)} == {3}


@pytest.mark.parametrize("temperature", [1e-4, 1e-300, 1e-320])
def test_close_to_temperature_0_is_temperature_0(temperature):
    assert kept(Sampling(temperature, 1.0)) == [1]


STRIKES, RELEASES = (60, 64), (codec.NOTE_OFF, codec.NOTE_OFF + 1)
WAITS, VELOCITIES = (codec.SHIFT, codec.SHIFT + 98), (codec.VELOCITY, codec.VELOCITY + 1)
UNCUT = (codec.VELOCITY - 1, codec.END)


@pytest.mark.parametrize(
    ("sampling", "strikes", "releases", "waits", "velocities", "end"),
    [
        (Sampling(0.0, 1.0), (0, 4), (3, 0), (4, 1), (1, 2), 1),
        (Sampling(0.5, 1.0), (0.4, 3.6), (2.4, 0.6), (4, 1), (1, 2), 1),
        (Sampling(1.0, 0.95), (1, 3), (2, 1), (4, 1), (1, 2), 0),  # over all events: the last of those that are 1
        # Of 1/4 and 3/4, 2/3 and 1/3, 4/5 and 1/5, 1/3 and 2/3.
        (Sampling(1.0, 0.7), (0, 4), (2, 1), (5, 0), (1, 2), 0),
        (Sampling(1.0, 0.3), (0, 4), (3, 0), (5, 0), (1, 2), 0),
        (Sampling(1.0, 1.0, 0.3), (1, 3), (2, 1), (5, 0), (1, 2), 1),
        (Sampling(1.0, 1.0, 0.4), (0, 4), (2, 1), (5, 0), (1, 2), 1),
        # Over all events 22.8 of 24 are reached without the two least, a strike and a release.
        (Sampling(0.5, 0.85), (0, 3.6), (2.4, 0), (4, 1), (1, 2), 1),
    ],
)
def test_strong_cuts_are_made_within_each_kind_of_event(sampling, strikes, releases, waits, velocities, end):
    """Shares: strikes 1 and 3 of 24, releases 2 and 1, waits 4 and 1, velocities 1 and 2, a second 8, the end 1."""
    shares = dict(zip((*STRIKES, *RELEASES, *WAITS, *VELOCITIES, *UNCUT), (1, 3, 2, 1, 4, 1, 1, 2, 8, 1)))
    logits = np.full(codec.N_EVENTS, -np.inf)
    logits[list(shares)] = np.log(np.array(list(shares.values())) / 24)
    p = sampling.probabilities(logits, np.isfinite(logits))
    expected = np.array([*strikes, *releases, *waits, *velocities, 8, end])
    np.testing.assert_allclose(p[list(shares)], expected / expected.sum(), rtol=1e-9, atol=1e-9)
    assert p.sum() == pytest.approx(1)


@pytest.mark.parametrize("sampling", [Sampling(1.0, 0.95), Sampling(1.0, 0.5, 0.5), Sampling(0.0, 0.01, 1.0)])
def test_velocities_are_drawn_as_the_model_says(sampling):
    """A key of 90 in 100, velocities of 9 and 1."""
    logits = np.full(codec.N_EVENTS, -np.inf)
    logits[[60, *VELOCITIES]] = np.log([0.9, 0.09, 0.01])
    p = sampling.probabilities(logits, np.isfinite(logits))
    np.testing.assert_allclose(p[[60, *VELOCITIES]], [0.9, 0.09, 0.01], rtol=1e-9)


@pytest.mark.parametrize(
    ("number", "event"), [(0.0, 0), (0.06, 0), (0.07, 1), (0.56, 1), (0.57, 2), (0.68, 2), (0.69, 3), (0.99, 4)]
)
def test_an_event_is_drawn_where_the_number_falls_among_the_shares_in_order(number, event):
    assert Sampling(1.0, 1.0).draw(SIXTEENTHS, ALL, Fixed(number)) == event


@pytest.mark.parametrize("number", [0.0, np.nextafter(1.0, 0.0)])
def test_the_least_and_the_greatest_number_fall_on_legal_events(number):
    legal = np.zeros(codec.N_EVENTS, bool)
    legal[[7, 11, 300]] = True
    for logits in (np.zeros(codec.N_EVENTS), np.linspace(-3, 3, codec.N_EVENTS), np.linspace(50, -50, codec.N_EVENTS)):
        assert Sampling(1.0, 1.0).draw(logits, legal, Fixed(float(number))) in (7, 11, 300)


def test_drawn_shares_are_the_probabilities():
    rng, draws = np.random.default_rng(5), 20_000
    counts = np.bincount([Sampling(1.0, 1.0).draw(SIXTEENTHS, ALL, rng) for _ in range(draws)], minlength=5)
    shares = np.array([1, 8, 2, 4, 1]) / 16
    deviations = (counts - draws * shares) / np.sqrt(draws * shares * (1 - shares))
    assert np.abs(deviations).max() < 4, "one seed in 3,000 would exceed this by chance"


@settings(deadline=None)
@given(data=st.data())
def test_nothing_illegal_is_ever_drawn(data):
    size = data.draw(st.integers(1, 40))
    extreme = st.floats(-(2.0**99), 2.0**99, width=32) | st.sampled_from([0.0, -np.inf, 1e-30])
    logits = np.array(data.draw(st.lists(extreme, min_size=size, max_size=size)), np.float32)
    legal = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)))
    if not np.any(np.isfinite(logits[legal])):
        return
    sampling = Sampling(data.draw(st.floats(0, 100)), data.draw(st.floats(1e-9, 1)), data.draw(st.floats(0, 1)))
    event = sampling.draw(logits, legal, Fixed(data.draw(st.floats(0, 1, exclude_max=True))))
    assert 0 <= event < size
    assert legal[event]


@settings(deadline=None)
@given(draws=st.integers(0, 30), temperature=st.sampled_from([0.0, 0.7, 1.0]))
def test_an_event_costs_one_number_of_the_generator(draws, temperature):
    used, counted = np.random.default_rng(3), np.random.default_rng(3)
    for _ in range(draws):
        Sampling(temperature).draw(SIXTEENTHS, ALL, used)
    counted.random(draws)
    assert used.bit_generator.state == counted.bit_generator.state


def test_the_model_s_logits_stay_as_they_are():
    logits, legal = SIXTEENTHS.copy(), ALL.copy()
    Sampling(0.7, 0.5, 0.1).draw(logits, legal, np.random.default_rng(0))
    np.testing.assert_array_equal(logits, SIXTEENTHS)
    assert legal.all()


@pytest.mark.parametrize("broken", [np.nan, np.inf])
def test_likelihoods_that_are_no_numbers_are_refused(broken):
    with pytest.raises(RitornelloError, match="damaged") as refusal:
        Sampling().draw(np.array([0.0, broken, 1.0]), np.ones(3, bool), np.random.default_rng(0))
    assert "\n" not in str(refusal.value)


def test_what_is_illegal_may_be_anything():
    legal = np.array([True, False, False])
    assert Sampling().draw(np.array([0.0, np.nan, np.inf]), legal, np.random.default_rng(0)) == 0


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("temperature", -1.0),
        ("temperature", 100.1),
        ("temperature", math.nan),
        ("temperature", math.inf),
        ("top_p", 0.0),
        ("top_p", -0.1),
        ("top_p", 1.1),
        ("top_p", math.nan),
        ("min_p", -0.1),
        ("min_p", 1.1),
        ("min_p", math.nan),
    ],
)
def test_a_number_outside_its_limits_is_refused_by_name(field, value):
    with pytest.raises(RitornelloError, match=rf"^{field} is {value}; it must lie ") as refusal:
        Sampling(**{field: value})
    assert "\n" not in str(refusal.value)


@pytest.mark.parametrize(
    ("field", "value"), [("temperature", 0), ("temperature", 100), ("top_p", 1), ("min_p", 0), ("min_p", 1)]
)
def test_the_limits_themselves_are_allowed(field, value):
    assert getattr(Sampling(**{field: value}), field) == value
