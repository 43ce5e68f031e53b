"""Generated pieces beside a reference: scores per feature, how sure they are, and what halves of the reference score.

Distances are Euclidean over all entries of a feature: *intra* between different pieces of one set, both ways, *inter*
between the sets. Scores, after Yang & Lerch (2018) and PerceiverS (arXiv 2411.08307, section VI-A):

- ``oa_reference``: overlap area of the distances within the reference and those between the sets;
- ``oa_generated``: of the distances within the generated set and those between the sets;
- ``kld``, ``kld_mgeval``: KL divergence from the distances within the reference to those between the sets, in nats;
- ``energy``: the energy coefficient of Szekely & Rizzo, "Energy statistics: A class of statistics based on distances"
  (2013), from the mean distances: 1 - (within the reference + within the generated set) / (2 x between the sets).
  0 for sets alike, 1 for two different constants.

The first four look at how far pieces are apart and not at where they lie: if all generated pieces are moved by d in a
feature that spreads by s, their densities change by (d / s)^2 and their nulls are as wide as N^(-1/2), so that d must
come near s. The null of the energy coefficient is as wide as 1 / N: it sees shifts near s / N^(1/2).

Beside each score stand a bootstrap interval and the *null*: the same score where the reference plays both parts. R
reference pieces, G generated ones, N pieces of any set.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.metrics.densities import RESAMPLE, SCORE, Agreement, Distances, Resolution

Floats = NDArray[np.float64]
Places = NDArray[np.int64]  # rows of the reference and, behind it, of the generated set
BAND = (0.025, 0.5, 0.975)
TOLERANCE = 1e-3
"""of overlap areas on the coarser grid: a score this close to a band is inside it, and no band counts as narrower"""


class Scores(NamedTuple):
    """The five scores; see the head of this file."""

    oa_reference: float
    oa_generated: float
    kld: float
    kld_mgeval: float
    energy: float


JUDGED = ("oa_reference", "oa_generated", "energy")
"""what the verdict goes by: overlap areas below their bands, an energy coefficient above its own"""


@dataclass(frozen=True)
class Resampling:
    """Which pieces stand for the reference and for the generated set in each repetition; the same for all features.

    *Bootstrap*: R pieces drawn with replacement from the reference, G from the generated set. Pieces are drawn, not
    distances, for distances that share a piece depend on each other. A draw of one piece only has no distances and is
    repeated. *Null*: the reference cut at random into two halves, the second in the part of the generated set; it is
    smaller than half where fewer pieces were generated.
    """

    bootstrap: list[tuple[Places, Places]]
    null: list[tuple[Places, Places]]

    @classmethod
    def draw(
        cls, rng: np.random.Generator, *, reference: int, generated: int, bootstraps: int = 100, nulls: int = 100
    ) -> Resampling:
        """Draws all repetitions for R ``reference`` and G ``generated`` pieces; ``rng`` is the only randomness.

        Raises:
            RitornelloError: for fewer than 4 reference pieces (two halves of 2), 2 generated ones or 1 repetition.
        """
        for name, value, least in (
            ("reference pieces", reference, 4),
            ("generated pieces", generated, 2),
            ("bootstraps", bootstraps, 1),
            ("nulls", nulls, 1),
        ):
            if value < least:
                raise RitornelloError(f"{name}: {value} are too few for a comparison; give at least {least}")
        drawn = [(_drawn(rng, reference), reference + _drawn(rng, generated)) for _ in range(bootstraps)]
        part = min(generated, reference // 2)
        orders = [rng.permutation(reference) for _ in range(nulls)]
        return cls(drawn, [(order[part:], order[:part]) for order in orders])


def compare_feature(reference: Floats, generated: Floats, resampling: Resampling) -> dict[str, Any]:
    """The figures of one feature as JSON-able values.

    Args:
        reference: (R, D) the feature's D entries of each piece.
        generated: (G, D)
        resampling: drawn for R and G.

    Returns:
        For each of the `Scores` its ``score``, ``interval`` [low, high] and ``null`` [low, median, high], which hold
        the middle 95% of the repetitions. A resample repeats pieces, which makes it less like any other set than a
        fresh one would be; so the interval is moved until the repetitions' median is the score. Halves are smaller than
        the sets: their energy coefficients are scaled to the sets' sizes, while overlap areas keep a band that is too
        wide. In ``verdict``: by how many of its band's widths a score lies outside, on the side of sets less alike
        (``widths_outside``, 0 for none); which of `JUDGED` is furthest outside (``score``); whether none is
        (``inside``). Of features truly alike 3% to 6% are outside; more, where most reference pieces are equal: there
        no band counts as narrower than 1 / G, which is what one odd piece does.
    """
    distances = pairwise(np.concatenate([reference, generated]))
    sizes = len(reference), len(generated)
    whole = np.arange(sizes[0]), np.arange(sizes[0], sum(sizes))
    score = _scores(distances, *whole, sizes, SCORE)
    bootstrap, null = (
        np.quantile([_scores(distances, *places, sizes, RESAMPLE) for places in repetitions], BAND, axis=0).T
        for repetitions in (resampling.bootstrap, resampling.null)
    )
    null[-1] *= _evidence(*map(len, resampling.null[0])) / _evidence(*sizes)
    figures: dict[str, Any] = {}
    for name, value, (low, median, high), band in zip(Scores._fields, score, bootstrap, null):
        limits = (0, np.inf) if name.startswith("kld") else (-np.inf if name == "energy" else 0, 1)
        interval = np.clip([value + low - median, value + high - median], *limits)
        figures[name] = {"score": value, "interval": interval.tolist(), "null": band.tolist()}
    mostly_equal = not np.median(distances[: sizes[0], : sizes[0]])
    least = 1 / sizes[1] if mostly_equal else TOLERANCE  # what one odd piece does where all others are alike
    outside = {name: _widths_outside(name, figures[name], least) for name in JUDGED}
    worst = max(outside, key=lambda name: outside[name])
    figures["verdict"] = {"inside": outside[worst] == 0, "widths_outside": outside[worst], "score": worst}
    return figures


def pairwise(values: Floats) -> Floats:
    """(N, N) Euclidean distances between the rows of ``values`` (N, D); exactly symmetric, and 0 between equal rows."""
    distances = np.zeros((len(values), len(values)))
    for i, row in enumerate(values):
        distances[i, i + 1 :] = np.sqrt(((values[i + 1 :] - row) ** 2).sum(axis=1))
    return distances + distances.T


def _scores(
    distances: Floats, reference: Places, generated: Places, sizes: tuple[int, int], resolution: Resolution
) -> Scores:
    """Scores of the pieces at the given places, smoothed like those of the whole sets.

    Smaller sets have wider kernels by Scott's rule, of which more falls outside the range of the distances: halves of
    the reference would overlap less for this reason alone.
    """
    inter = Distances(distances[np.ix_(reference, generated)], scott_n=sizes[0] * sizes[1])
    of_reference = Agreement(_intra(distances, reference, sizes[0]), inter, resolution)
    of_generated = Agreement(_intra(distances, generated, sizes[1]), inter, resolution)
    between, within = inter.values.mean(), (of_reference.a.values.mean() + of_generated.a.values.mean()) / 2
    energy = float(1 - within / between) if between else 0.0
    return Scores(
        of_reference.overlap_area, of_generated.overlap_area, of_reference.kld, of_reference.kld_mgeval, energy
    )


def _intra(distances: Floats, places: Places, size: int) -> Distances:
    """Distances between the pieces at the given places, those between copies of one piece left out.

    Copies come from drawing with replacement. Counted, their zeros would be a share 1/N of the distances, heaped up
    where sets of different pieces have next to none.
    """
    i, j = _pairs(len(places))
    i, j = places[i], places[j]
    different = i != j
    return Distances(distances.take((i * len(distances) + j)[different]), times=2, scott_n=size * (size - 1))


@lru_cache(maxsize=8)
def _pairs(n: int) -> tuple[Places, Places]:
    return np.triu_indices(n, 1)


def _evidence(n: int, m: int) -> float:
    """By what the energy coefficient of n and m pieces drawn alike is multiplied to spread alike for any n and m."""
    return n * m / (n + m)


def _widths_outside(name: str, figures: Mapping[str, Any], least: float) -> float:
    """Widths of the band from it to the score; no band counts as narrower than ``least``."""
    low, _, high = figures["null"]
    beyond = figures["score"] - high if name == "energy" else low - figures["score"]
    return beyond / max(high - low, least) if beyond > TOLERANCE else 0.0


def _drawn(rng: np.random.Generator, n: int) -> Places:
    while True:
        drawn = rng.integers(n, size=n)
        if drawn.min() < drawn.max():
            return drawn
