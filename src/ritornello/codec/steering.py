"""Steering: what a model may be told of the music that it is to play, as labels with a vector each.

A label is a word and a value: ``composer=Chopin``, ``source=rolls``, or how dense, loud and high the next seconds are,
each in `STEPS` steps from the sparsest, softest and lowest (``density=1``) on. In training the steps are those of the
music that follows. A vector for each label that is told is added to every token's, so labels cost no memory, may
change with any token, and a blend of composers is a mean of their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello.codec import vocabulary as v
from ritornello.codec.encoding import steps_of

AHEAD_S = 8.0
"""the seconds that are described: from the present moment on"""
LEAST_S = 2.0
"""of them must be left of the piece, or nothing is told"""
EDGES = {
    "density": (6.0, 9.0, 11.5, 14.0, 17.0, 21.0),
    "loudness": (48.0, 56.0, 62.0, 67.0, 72.0, 78.0),
    "register": (58.0, 61.0, 64.0, 66.0, 69.0, 72.0),
}
"""between the steps, of strikes a second, mean velocity and mean pitch: about the sevenths of ASAP's training tokens"""
STEPS = 7
COLUMNS = 2 + len(EDGES)
"""labels that a token can have at once: composer, source and the steps"""


def labels(composers: Iterable[str], sources: Iterable[str]) -> tuple[str, ...]:
    """All labels of a model, in the order of their vectors; vector 0 is that of nothing told, and zero."""
    steps = (f"{name}={step}" for name in EDGES for step in range(1, STEPS + 1))
    return (*(f"composer={name}" for name in composers), *(f"source={name}" for name in sources), *steps)


def following(tokens: ArrayLike) -> NDArray[np.int64]:
    """Of a piece (T,): the steps of what follows each token's place, (T, 3) from 1 on; 0 where too little does.

    Row i describes the `AHEAD_S` seconds from where token i stands, itself among them: what is predicted there and on.
    """
    tokens = np.asarray(tokens, np.int64)
    after = steps_of(tokens)
    before = after - np.diff(after, prepend=0)
    struck = np.flatnonzero(tokens < v.NOTE_OFF)
    is_velocity = (tokens >= v.VELOCITY) & (tokens < v.END)
    latest = np.maximum.accumulate(np.where(is_velocity, np.arange(len(tokens)), -1))
    bins = np.where(latest >= 0, tokens[latest] - v.VELOCITY, v.DEFAULT_VELOCITY_BIN)
    velocity = v.bin_velocity(bins)[struck]
    first = np.searchsorted(struck, np.arange(len(tokens)))
    last = np.searchsorted(before[struck], before + round(AHEAD_S * v.STEPS_PER_S))
    count = np.maximum(last - first, 0)
    seconds = np.minimum((after[-1] if len(after) else 0) - before, AHEAD_S * v.STEPS_PER_S) / v.STEPS_PER_S
    found = np.zeros((len(tokens), len(EDGES)), np.int64)
    means = [count / np.maximum(seconds, LEAST_S)]
    for values in (velocity, tokens[struck]):
        sums = np.r_[0, np.cumsum(values)]
        means.append((sums[np.maximum(last, first)] - sums[first]) / np.maximum(count, 1))
    for column, (edges, values) in enumerate(zip(EDGES.values(), means)):
        told = (seconds >= LEAST_S) & ((count > 0) | (column == 0))
        found[:, column] = np.where(told, 1 + np.searchsorted(edges, values, side="right"), 0)
    return found
