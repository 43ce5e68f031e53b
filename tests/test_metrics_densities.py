"""Densities of distances: overlap area and KL divergence beside plain sums, published figures and what must hold.

Oracle: every kernel summed at every point, and a trapezoid rule.
"""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.metrics.densities import RESAMPLE, SCORE, Agreement, Distances

ONE_TO_TEN = np.arange(1, 11)
OTHERS = np.array([2, 2.5, 3, 5, 8, 8, 9, 11, 12, 15])
FARTHEST = -math.log(1e-12)


def overlap_area(a, b):
    return Agreement(Distances(a), Distances(b)).overlap_area


def kld(a, b):
    return Agreement(Distances(a), Distances(b)).kld


def kld_mgeval(a, b):
    return Agreement(Distances(a), Distances(b)).kld_mgeval


def summed(distances: np.ndarray, points: np.ndarray) -> np.ndarray:
    """Gaussian kernel density with Scott's bandwidth, one kernel after another."""
    n = len(distances)
    h = np.sqrt(((distances - distances.mean()) ** 2).sum() / (n - 1)) / n**0.2
    density = np.zeros(len(points))
    for distance in distances:
        density += np.exp(-(((points - distance) / h) ** 2) / 2)
    return density / (n * h * np.sqrt(2 * np.pi))


def entropy(p: np.ndarray, q: np.ndarray) -> float:
    """Relative entropy of two profiles, what is fainter than 1e-12 of the highest taken as that much."""
    p, q = np.maximum(p, 1e-12 * p.max()), np.maximum(q, 1e-12 * q.max())
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


def plain(a: np.ndarray, b: np.ndarray) -> dict[str, float]:
    low, high = min(a.min(), b.min()), max(a.max(), b.max())
    fine = np.linspace(low, high, 30_001)
    shared, of_a, of_b = (np.linspace(*ends, 1000) for ends in ((low, high), (a.min(), a.max()), (b.min(), b.max())))
    return {
        "overlap_area": float(np.trapezoid(np.minimum(summed(a, fine), summed(b, fine)), fine)),
        "kld": entropy(summed(a, shared), summed(b, shared)),
        "kld_mgeval": entropy(summed(a, of_a), summed(b, of_b)),
    }


def sets() -> dict[str, np.ndarray]:
    rng = np.random.default_rng(5)
    return {
        "three": np.array([1.0, 2.0, 4.5]),
        "few": rng.gamma(3, 1, 12),
        "skewed": rng.gamma(2, 1.2, 400),
        "two heaps": np.r_[rng.normal(3, 0.2, 200), rng.normal(8, 0.5, 200)],
        "whole numbers": rng.poisson(3, 500).astype(float),
        "narrow": rng.normal(4, 0.3, 300),
        "far out": np.r_[rng.gamma(3, 1, 300), 60.0],
    }


PAIRS = list(itertools.permutations(sets(), 2))


def test_the_test_vector():
    assert overlap_area(ONE_TO_TEN, OTHERS) == pytest.approx(0.678877, abs=5e-7)
    assert kld_mgeval(ONE_TO_TEN, OTHERS) == pytest.approx(0.008546, abs=5e-7)
    assert kld_mgeval(OTHERS, ONE_TO_TEN) == pytest.approx(0.008325, abs=5e-7)
    assert kld(ONE_TO_TEN, OTHERS) == pytest.approx(0.134624, abs=5e-7)


@pytest.mark.parametrize(("one", "other"), PAIRS)
def test_scores_are_those_of_plain_sums(one: str, other: str) -> None:
    a, b = sets()[one], sets()[other]
    expected = plain(a, b)
    score, resample = Agreement(Distances(a), Distances(b), SCORE), Agreement(Distances(a), Distances(b), RESAMPLE)
    assert score.overlap_area == pytest.approx(expected["overlap_area"], abs=1e-5)
    assert resample.overlap_area == pytest.approx(expected["overlap_area"], abs=1e-3)
    for name in ("kld", "kld_mgeval"):
        assert getattr(score, name) == pytest.approx(expected[name], rel=1e-4, abs=1e-5)
        assert getattr(resample, name) == pytest.approx(expected[name], rel=1e-2, abs=1e-3)


def test_as_many_distances_as_200_pieces_have():
    rng = np.random.default_rng(2)
    a, b = rng.gamma(4, 1, 4_000), rng.gamma(4.5, 1, 4_000)
    expected = plain(a, b)["overlap_area"]
    # Every distance ten times: the same density, if Scott's rule counts one of each.
    many = [Distances(np.repeat(values, 10), scott_n=4_000) for values in (a, b)]
    assert Agreement(*many, SCORE).overlap_area == pytest.approx(expected, abs=1e-4)
    assert Agreement(*many, RESAMPLE).overlap_area == pytest.approx(expected, abs=1e-3)


def test_distances_that_stand_for_two_count_twice():
    a, b = sets()["few"], sets()["skewed"]
    once, twice = Distances(np.repeat(a, 2)), Distances(a, times=2)
    assert twice.bandwidth == pytest.approx(once.bandwidth, rel=1e-12)
    assert Agreement(twice, Distances(b)).overlap_area == pytest.approx(overlap_area(np.repeat(a, 2), b), abs=1e-9)


def test_mgevals_divergence_sees_neither_a_shift_nor_a_scale_and_the_other_does():
    for moved in (ONE_TO_TEN + 100, ONE_TO_TEN * 7):
        assert kld_mgeval(ONE_TO_TEN, moved) == pytest.approx(0, abs=1e-9)
        assert kld(ONE_TO_TEN, moved) > 0.5


def test_sets_without_anything_in_common():
    a = sets()["narrow"]
    assert overlap_area(a, a + 1000) == pytest.approx(0, abs=1e-9)
    assert 25 < kld(a, a + 1000) <= FARTHEST


@pytest.mark.parametrize(
    ("a", "b", "overlap", "divergence"),
    [
        ([2, 2], [2, 2, 2], 1, 0),
        ([0], [0], 1, 0),
        ([2, 2], [3, 3], 0, FARTHEST),
        ([0.1 + 0.2, 0.3], [0.3], 1, 0),
        ([5], [1, 5, 5, 9], 0.5, math.log(2)),
        ([1, 5, 5, 9], [5], 0.5, math.log(2)),
        ([5], [1, 2, 3], 0, FARTHEST),
        ([5, 5], [0, 10, 4.9], 0, FARTHEST),
    ],
)
def test_constant_sets_overlap_by_what_is_equal(a, b, overlap, divergence):
    assert overlap_area(a, b) == overlap
    assert kld(a, b) == pytest.approx(divergence)
    assert math.isfinite(kld_mgeval(a, b))
    assert kld_mgeval([3, 3], [4]) == 0


VALUES = st.lists(st.integers(0, 400), min_size=1, max_size=30).map(lambda steps: np.array(steps) / 8)


@settings(deadline=None, max_examples=40)
@given(VALUES, VALUES, st.integers(1, 50), st.sampled_from([0.25, 2.0, 1024.0]))
def test_what_must_hold_of_any_two_sets(a: np.ndarray, b: np.ndarray, shift: int, scale: float) -> None:
    area = overlap_area(a, b)
    assert 0 <= area <= 1 + 1e-9
    assert overlap_area(b, a) == pytest.approx(area, abs=1e-9)
    assert overlap_area(a * scale, b * scale) == pytest.approx(area, abs=1e-6)
    assert overlap_area(a + shift, b + shift) == pytest.approx(area, abs=1e-6)
    for divergence in (kld(a, b), kld_mgeval(a, b)):
        assert -1e-12 <= divergence <= FARTHEST + 1e-9
    assert kld(a, a) == pytest.approx(0, abs=1e-12)
