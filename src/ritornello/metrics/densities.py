"""Two sets of distances as densities, and how far these agree: overlap area and KL divergence.

A density is a Gaussian kernel density with Scott's bandwidth, h = std(ddof=1) * n^(-1/5), as in Yang & Lerch, "On the
evaluation of generative models in music" (2018). Summing n kernels at every point is too slow for 40,000 distances, so
the distances are spread linearly over a grid, which is convolved with one kernel by FFT (Silverman 1982, algorithm
AS 176; Wand 1994). `SCORE` and `RESAMPLE` say how fine the grid is; tests hold what that costs against the plain sums.

A set whose distances are all the same has no density: it is a point, and overlaps with another set by the share of that
set's distances which lie at this point. So two equal constants overlap by 1, and two different ones by 0.
"""

from __future__ import annotations

import math
from functools import cached_property
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

Floats = NDArray[np.float64]
KLD_POINTS = 1000
FAINTEST = 1e-12
"""of a density's highest value; what lies below counts as that much, so no divergence exceeds -ln 1e-12 = 27.6 nats"""
SAME = 1e-9
"""of the largest distance; a set that spreads less is constant"""


class Resolution(NamedTuple):
    """Grid points per bandwidth of the narrower density; the fewest and the most that a grid has."""

    per_bandwidth: int
    fewest: int
    most: int


SCORE = Resolution(64, 2**13, 2**16)
RESAMPLE = Resolution(8, 2**9, 2**13)


class Distances:
    """A set of distances, not empty, each occurring ``times`` times (2 where d(i, j) stands for d(j, i) too).

    ``scott_n`` is the number that Scott's rule goes by; None for all occurrences.
    """

    def __init__(self, values: ArrayLike, *, times: int = 1, scott_n: int | None = None) -> None:
        self.values = np.asarray(values, np.float64).reshape(-1)
        self.low, self.high = float(self.values.min()), float(self.values.max())
        n = len(self.values) * times
        scatter = float(self.values.std()) * math.sqrt(n / max(n - 1, 1))
        self.bandwidth = scatter * (scott_n or n) ** -0.2


class Agreement:
    """Two sets of distances with their densities on one grid over the range of both."""

    def __init__(self, a: Distances, b: Distances, resolution: Resolution = SCORE) -> None:
        self.a, self.b, self._resolution = a, b, resolution
        self._low, self._high = min(a.low, b.low), max(a.high, b.high)
        self._same = SAME * max(abs(self._low), abs(self._high))

    @property
    def overlap_area(self) -> float:
        """OA: the integral of min(p_a, p_b) over the range of both; at most 1, and 1 only for equal constants."""
        if self._constant(self.a) or self._constant(self.b):
            return self._share_at_the_point
        return float(np.trapezoid(np.minimum(*self._densities)) * self._step)

    @property
    def kld(self) -> float:
        """KL(a || b) in nats, between the densities at 1,000 points over the range of both, each scaled to sum 1.

        With a constant on either side: -ln of the overlap.
        """
        if self._constant(self.a) or self._constant(self.b):
            return math.log(1 / max(self._share_at_the_point, FAINTEST))
        points = np.linspace(self._low, self._high, KLD_POINTS)
        p, q = self._densities
        return _divergence(np.interp(points, self._grid, p), np.interp(points, self._grid, q))

    @property
    def kld_mgeval(self) -> float:
        """KL(a || b) in mgeval's way, for comparison with published tables: each density on its own grid.

        1,000 points from the least to the greatest distance of either set: so it sees neither a shift nor a scale. A
        constant, where mgeval ends with an error, has the same density at all its points.
        """
        profiles = []
        for side, distances in enumerate((self.a, self.b)):
            if self._constant(distances):
                profiles.append(np.ones(KLD_POINTS))
            else:
                points = np.linspace(distances.low, distances.high, KLD_POINTS)
                profiles.append(np.interp(points, self._grid, self._densities[side]))
        return _divergence(*profiles)

    def _constant(self, distances: Distances) -> bool:
        return distances.high - distances.low <= self._same

    @property
    def _share_at_the_point(self) -> float:
        point, spread = (self.a, self.b) if self._constant(self.a) else (self.b, self.a)
        return float(np.mean(np.abs(spread.values - point.low) <= self._same))

    @cached_property
    def _grid(self) -> Floats:
        per_bandwidth, fewest, most = self._resolution
        narrowest = min(d.bandwidth for d in (self.a, self.b) if not self._constant(d))
        wanted = (self._high - self._low) / narrowest * per_bandwidth
        return np.linspace(self._low, self._high, min(max(fewest, 2 ** math.ceil(math.log2(wanted))), most))

    @property
    def _step(self) -> float:
        return (self._high - self._low) / (len(self._grid) - 1)

    @cached_property
    def _densities(self) -> tuple[Floats, Floats]:
        return self._density(self.a), self._density(self.b)

    def _density(self, distances: Distances) -> Floats:
        if self._constant(distances):
            return np.ones(0)
        points = len(self._grid)
        kernel = np.exp(-0.5 * (np.arange(points) * (self._step / distances.bandwidth)) ** 2)
        around = np.r_[kernel, 0.0, kernel[:0:-1]] / (distances.bandwidth * math.sqrt(2 * math.pi))
        spread = np.fft.irfft(np.fft.rfft(self._binned(distances), 2 * points) * np.fft.rfft(around), 2 * points)
        return np.maximum(spread[:points], 0)

    def _binned(self, distances: Distances) -> Floats:
        """(points,) shares of the distances, each split between its two neighbours on the grid."""
        points = len(self._grid)
        place = (distances.values - self._low) / self._step
        left = np.minimum(place.astype(np.int64), points - 2)
        right_share = place - left
        mass = np.bincount(left, minlength=points).astype(np.float64)
        moved = np.bincount(left, weights=right_share, minlength=points)
        mass -= moved
        mass[1:] += moved[:-1]
        return mass / len(distances.values)


def _divergence(p: Floats, q: Floats) -> float:
    p, q = np.maximum(p, FAINTEST * p.max()), np.maximum(q, FAINTEST * q.max())
    p, q = p / p.sum(), q / q.sum()
    return float((p * np.log(p / q)).sum())
