"""Sets of pieces compared: scores of small sets by plain loops, what is resampled, and what the verdicts are worth."""

from __future__ import annotations

import itertools
import json
import math

import numpy as np
import pytest
from comparing import compare
from conftest import one_line

from ritornello.metrics.comparison import Resampling, compare_feature, pairwise

AREAS = ("oa_reference", "oa_generated")
SCORES = (*AREAS, "kld", "kld_mgeval", "energy")


def pieces(rng: np.random.Generator, n: int, *, shift: float = 0.0, spread: float = 1.0) -> list[dict]:
    """Features of made-up pieces: a number and a small matrix."""
    return [{"number": float(rng.normal(shift, spread)), "matrix": rng.normal(shift, spread, (2, 3))} for _ in range(n)]


def resampling(reference: int, generated: int, seed: int = 0, **how: int) -> Resampling:
    return Resampling.draw(np.random.default_rng(seed), reference=reference, generated=generated, **how)


def looped_scores(reference: list, generated: list, sizes: tuple[int, int] | None = None) -> dict[str, float]:
    """All scores by plain loops over ordered pairs of different pieces; ``sizes`` are those of Scott's rule."""
    n, m = sizes or (len(reference), len(generated))
    intra = {
        "reference": [math.dist(a, b) for a, b in itertools.permutations(reference, 2) if a is not b],
        "generated": [math.dist(a, b) for a, b in itertools.permutations(generated, 2) if a is not b],
    }
    inter = [math.dist(a, b) for a in reference for b in generated]
    low, high = (pick([*intra["reference"], *inter]) for pick in (min, max))
    between = density(inter, n * m)
    within = {
        "reference": density(intra["reference"], n * (n - 1)),
        "generated": density(intra["generated"], m * (m - 1)),
    }
    shared = np.linspace(low, high, 1000)
    return {
        "oa_reference": overlap(within["reference"], between, low, high),
        "oa_generated": overlap(
            within["generated"], between, min([*intra["generated"], *inter]), max([*intra["generated"], *inter])
        ),
        "energy": 1 - (np.mean(intra["reference"]) + np.mean(intra["generated"])) / (2 * np.mean(inter)),
        "kld": entropy(within["reference"](shared), between(shared)),
        "kld_mgeval": entropy(
            within["reference"](np.linspace(min(intra["reference"]), max(intra["reference"]), 1000)),
            between(np.linspace(min(inter), max(inter), 1000)),
        ),
    }


def density(distances: list[float], scott_n: int):
    values = np.array(distances)
    h = values.std(ddof=1) * scott_n**-0.2

    def at(points: np.ndarray) -> np.ndarray:
        kernels = np.exp(-(((points[:, None] - values) / h) ** 2) / 2)
        return kernels.sum(axis=1) / (len(values) * h * math.sqrt(2 * math.pi))

    return at


def overlap(one, other, low: float, high: float) -> float:
    points = np.linspace(low, high, 20_001)
    return float(np.trapezoid(np.minimum(one(points), other(points)), points))


def entropy(p: np.ndarray, q: np.ndarray) -> float:
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())


# Scores.


def test_distances_are_those_between_whole_features():
    values = np.random.default_rng(0).normal(size=(7, 12))
    values[4] = values[2]
    expected = [[math.dist(a, b) for b in values] for a in values]
    np.testing.assert_allclose(pairwise(values), expected, rtol=1e-12)
    assert pairwise(values)[2, 4] == pairwise(values)[4, 2] == 0


def test_scores_are_those_of_plain_loops():
    rng = np.random.default_rng(1)
    reference, generated = pieces(rng, 11), pieces(rng, 8, shift=0.7)
    found = compare(reference, generated, rng=rng, bootstraps=3, nulls=3)
    for name in ("number", "matrix"):
        rows = [[np.ravel(piece[name]) for piece in side] for side in (reference, generated)]
        for score, expected in looped_scores(*rows).items():
            assert found[name][score]["score"] == pytest.approx(expected, abs=2e-5), (name, score)


def test_a_repetition_scores_its_pieces_with_the_kernels_of_the_whole_sets_and_copies_are_not_alike_pieces():
    rng = np.random.default_rng(2)
    values = rng.normal(size=(20, 3))
    reference, generated = [0, 3, 3, 5, 7, 9, 9, 9, 2, 11], [12, 13, 15, 15, 19, 18, 12, 17]
    places = np.array(reference), np.array(generated)
    one = Resampling(bootstrap=[places], null=[places])
    found = compare_feature(values[:12], values[12:], one)
    rows = list(values)
    expected = looped_scores([rows[i] for i in reference], [rows[i] for i in generated], sizes=(12, 8))
    for score in SCORES:
        # 10 and 8 pieces were drawn for 12 and 8: their energy is scaled to as many.
        scaled = expected[score] * (10 * 8 / 18) / (12 * 8 / 20) if score == "energy" else expected[score]
        assert found[score]["null"] == pytest.approx([scaled] * 3, abs=2e-3), score
        assert found[score]["interval"] == pytest.approx([found[score]["score"]] * 2), score


# What is drawn.


def test_a_bootstrap_draws_whole_sets_of_pieces_with_replacement():
    drawn = resampling(6, 3, bootstraps=400).bootstrap
    assert len(drawn) == 400
    assert all(len(a) == 6 and len(b) == 3 for a, b in drawn)
    assert {int(i) for a, _ in drawn for i in a} == set(range(6))
    assert {int(i) for _, b in drawn for i in b} == {6, 7, 8}
    assert any(len(set(a.tolist())) < 6 for a, _ in drawn)
    assert all(len(set(b.tolist())) > 1 for _, b in drawn), "one piece alone has no distances"


@pytest.mark.parametrize(("reference", "generated", "part"), [(9, 9, 4), (10, 40, 5), (20, 3, 3), (4, 2, 2)])
def test_the_null_cuts_the_reference_in_two(reference: int, generated: int, part: int) -> None:
    cuts = resampling(reference, generated, nulls=30).null
    assert len({tuple(sorted(b.tolist())) for _, b in cuts}) > 2
    for a, b in cuts:
        assert len(b) == part
        assert sorted([*a.tolist(), *b.tolist()]) == list(range(reference))


def test_the_generator_is_the_only_randomness_and_features_do_not_meddle_with_each_other():
    rng = np.random.default_rng(3)
    reference, generated = pieces(rng, 12), pieces(rng, 12)

    def found(seed: int, names: tuple[str, ...]) -> dict:
        sides = ([{name: piece[name] for name in names} for piece in side] for side in (reference, generated))
        return compare(*sides, rng=np.random.default_rng(seed), bootstraps=5, nulls=5)

    both = found(7, ("number", "matrix"))
    assert both == found(7, ("number", "matrix"))
    assert both["matrix"] == found(7, ("matrix",))["matrix"]
    assert both["matrix"] != found(8, ("matrix",))["matrix"]


# Verdicts.


def test_sets_drawn_alike_are_inside_and_others_are_not():
    rng = np.random.default_rng(4)
    reference = pieces(rng, 60)
    others = {
        "alike": pieces(rng, 60),
        "elsewhere": pieces(rng, 60, shift=3.0),
        "wider": pieces(rng, 60, spread=3.0),
        "narrower": pieces(rng, 60, spread=0.1),
        "one piece": pieces(rng, 1) * 60,
    }
    for name, generated in others.items():
        for feature, figures in compare(reference, generated, rng=rng, bootstraps=30, nulls=30).items():
            verdict = figures["verdict"]
            assert verdict["inside"] == (name == "alike"), (name, feature)
            assert (verdict["widths_outside"] == 0) == verdict["inside"]
            if name != "alike":
                by_area = {score: (figures[score]["null"][0] - figures[score]["score"], score) for score in AREAS}
                beyond = {**by_area, "energy": (figures["energy"]["score"] - figures["energy"]["null"][2], "energy")}
                widths = {key: by / np.ptp(figures[score]["null"]) for key, (by, score) in beyond.items()}
                assert verdict["widths_outside"] == pytest.approx(max(widths.values()))
                assert verdict["widths_outside"] == pytest.approx(widths[verdict["score"]])
                assert verdict["widths_outside"] > 1, (name, feature)


def test_verdicts_on_sets_drawn_alike_are_seldom_wrong():
    rng = np.random.default_rng(5)
    trials, wrong = 60, 0
    for reference in [30] * (trials // 2) + [48] * (trials // 2):
        values = rng.gamma(3, 1, (60, 4))
        drawn = resampling(reference, 60 - reference, rng.integers(2**32), bootstraps=1, nulls=40)
        figures = compare_feature(values[:reference], values[reference:], drawn)
        wrong += not figures["verdict"]["inside"]
    assert wrong <= 0.12 * trials, f"{wrong} of {trials} sets drawn alike were told apart"


def test_a_shift_by_the_spread_is_seen_by_the_energy_and_hardly_by_how_far_pieces_are_apart():
    rng = np.random.default_rng(11)
    seen = dict.fromkeys((*AREAS, "energy"), 0)
    for _ in range(8):
        drawn = resampling(60, 60, rng.integers(2**32), bootstraps=1, nulls=60)
        figures = compare_feature(rng.normal(0, 1, (60, 1)), rng.normal(1, 1, (60, 1)), drawn)
        for area in AREAS:
            seen[area] += figures[area]["score"] < figures[area]["null"][0]
        seen["energy"] += figures["energy"]["score"] > figures["energy"]["null"][2]
        assert not figures["verdict"]["inside"]
        # Of two normal distributions 1 apart, E|X - Y| is E|N(1, sqrt(2))|, and E|X - X'| is 2 / sqrt(pi).
        between = 2 * math.exp(-1 / 4) / math.sqrt(math.pi) + math.erf(1 / 2)
        assert figures["energy"]["score"] == pytest.approx(1 - 2 / math.sqrt(math.pi) / between, abs=0.13)
    assert seen["energy"] == 8
    assert max(seen[area] for area in AREAS) < 8


def test_a_band_of_constants_is_as_wide_as_one_odd_piece():
    """3 of 20 pieces are odd: so are 3 / 20 of the distances between, 2 x 3 x 17 / (20 x 19) of those within them."""
    generated = np.array([[12.0]] * 17 + [[11.0]] * 3)
    found = compare_feature(np.full((20, 1), 12.0), generated, resampling(20, 20, bootstraps=2, nulls=5))
    energy = 1 - (2 * 3 * 17 / (20 * 19)) / (2 * 3 / 20)
    assert found["energy"]["score"] == pytest.approx(energy)
    assert found["energy"]["null"] == [0, 0, 0]
    assert found["verdict"]["inside"] is False
    beyond = max(energy, *(1 - found[area]["score"] for area in AREAS))
    assert found["verdict"]["widths_outside"] == pytest.approx(beyond * 20)


def test_intervals_hold_their_scores_and_stay_within_their_limits():
    rng = np.random.default_rng(6)
    figures = compare(pieces(rng, 25), pieces(rng, 15, shift=0.5), rng=rng, bootstraps=40, nulls=10)["matrix"]
    for score in SCORES:
        low, high = figures[score]["interval"]
        assert low <= figures[score]["score"] <= high, score
        assert low >= (-1 if score == "energy" else 0), score
        assert low < high
    assert figures["oa_reference"]["interval"][1] <= 1
    assert figures["oa_generated"]["interval"][1] <= 1


def test_features_that_never_change_have_clear_figures():
    def same(value: float, n: int) -> list[dict]:
        return [{"f": value}] * n

    equal = compare(same(12, 6), same(12, 5), rng=np.random.default_rng(0), bootstraps=3, nulls=3)["f"]
    assert equal["oa_reference"] == {"score": 1.0, "interval": [1.0, 1.0], "null": [1.0, 1.0, 1.0]}
    assert equal["kld"] == {"score": 0.0, "interval": [0.0, 0.0], "null": [0.0, 0.0, 0.0]}
    assert equal["verdict"] == {"inside": True, "widths_outside": 0.0, "score": "oa_reference"}
    different = compare(same(12, 6), same(11, 5), rng=np.random.default_rng(0), bootstraps=3, nulls=3)["f"]
    assert (equal["energy"]["score"], different["energy"]["score"]) == (0, 1)
    assert different["oa_reference"]["score"] == different["oa_generated"]["score"] == 0
    assert different["kld"]["score"] == pytest.approx(-math.log(1e-12))
    assert different["verdict"]["inside"] is False


def test_figures_are_json():
    rng = np.random.default_rng(8)
    found = compare(pieces(rng, 4), pieces(rng, 2), rng=rng, bootstraps=4, nulls=4)
    assert json.loads(json.dumps(found, allow_nan=False)) == found


# What cannot be compared.


@pytest.mark.parametrize(
    ("reference", "generated", "how", "mistake"),
    [
        (3, 5, {}, "reference pieces: 3 are too few"),
        (0, 5, {}, "reference pieces: 0 are too few"),
        (5, 1, {}, "generated pieces: 1 are too few"),
        (5, 5, {"bootstraps": 0}, "bootstraps: 0 are too few"),
        (5, 5, {"nulls": 0}, "nulls: 0 are too few"),
    ],
)
def test_too_few_are_refused_in_one_line(reference, generated, how, mistake):
    with one_line(mistake):
        resampling(reference, generated, **how)
