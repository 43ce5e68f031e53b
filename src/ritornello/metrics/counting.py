"""What the features share: shares of counts, moves between classes, whole microseconds, a piece's duration."""

from __future__ import annotations

from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from ritornello.notes import Piece

Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def shares(counts: NDArray[np.number]) -> Floats:
    """Counts divided by their sum; zeros stay zeros."""
    total = counts.sum()
    return counts / total if total else np.zeros(counts.shape)


def moves(classes: NDArray[np.integer], n_classes: int) -> Counts:
    """(n, n) counts of each step from one entry of ``classes`` (N,) to the next; rows are what it moves from."""
    pairs = classes[:-1].astype(np.int64) * n_classes + classes[1:]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def microseconds(times_s: Floats) -> Counts:
    """Times as whole numbers, in which ties are ties."""
    return np.rint(times_s * 1e6).astype(np.int64)


@lru_cache(maxsize=1)  # many features of a piece ask one after another
def duration_us(piece: Piece) -> int:
    """From the first onset until the last note falls silent, the pedal applied; 0 without notes."""
    if not len(piece):
        return 0
    return int(microseconds(piece.sounding_offset().max() - piece.onset[:1])[0])
