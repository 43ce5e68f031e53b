"""Steering: what a model may be told of the music that it is to play, as labels with a vector each.

A label is a word and a value: ``composer=Chopin``, ``source=rolls``, or how dense, loud and high the next seconds are,
each in `STEPS` steps from the sparsest, softest and lowest (``density=1``) on. In training the steps are those of the
music that follows. A vector for each label that is told is added to every token's, so labels cost no memory, may
change with any token, and a blend of composers is a mean of their vectors.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from difflib import get_close_matches

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello.codec import vocabulary as v
from ritornello.codec.encoding import steps_of
from ritornello.errors import RitornelloError

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
STRENGTH = {"density": 1.5, "loudness": 1.5, "register": 1.0}
"""by how much the vectors of steps weigh more in playing than in training: asking for a step more moves the music by
0.1 to 0.5 of one at 1, by 0.6 to 0.8 at 2, and no further at 3 (docs/notebook/2026-11-26-voice.md)"""
COURSE_S = 2.0
"""between two rows of a course: what a piece is told of the seconds that follow, (N, 3) steps, 0 for nothing"""
COLUMNS = 2 + len(EDGES)
"""labels that a token can have at once: composer, source and the steps"""
SOURCE = 1
"""the column of that"""


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
    steps = np.zeros((len(tokens), len(EDGES)), np.int64)
    means = [count / np.maximum(seconds, LEAST_S)]
    for values in (velocity, tokens[struck]):
        sums = np.r_[0, np.cumsum(values)]
        means.append((sums[np.maximum(last, first)] - sums[first]) / np.maximum(count, 1))
    for column, (edges, values) in enumerate(zip(EDGES.values(), means)):
        known = (seconds >= LEAST_S) & ((count > 0) | (column == 0))
        steps[:, column] = np.where(known, 1 + np.searchsorted(edges, values, side="right"), 0)
    return steps


def course_of(tokens: ArrayLike) -> NDArray[np.int64]:
    """The course of a piece (T,), so that another may go as it does: (N, 3)."""
    steps, times = following(tokens), steps_of(tokens) / v.STEPS_PER_S
    moments = np.arange(0.0, times[-1] if len(times) else 0.0, COURSE_S)
    return steps[np.searchsorted(times, moments)]


def course_labels(course: NDArray[np.integer], seconds: float) -> dict[str, float]:
    """What a course (N, 3) tells at a time, as labels and their weights; nothing beyond its end."""
    row = int(seconds / COURSE_S)
    steps = course[row].tolist() if row < len(course) else ()
    return {f"{name}={step}": 1.0 for name, step in zip(EDGES, steps) if step}


def asked(composers: str | None = None, source: str | None = None, **steps: int | None) -> dict[str, float]:
    """What one asks for, as labels and their weights.

    Args:
        composers: one, or several and their shares: ``chopin:0.7,debussy:0.3``. Shares are taken relative to their sum.
        source: whose performances it is to be like, such as ``rolls``.
        steps: of density, loudness and register, from 1 to `STEPS`.

    Raises:
        RitornelloError: for shares and steps that are none.
    """
    wanted = {f"source={source}": 1.0} if source else {}
    shares: dict[str, float] = {}
    for part in composers.split(",") if composers else ():
        name, colon, share = part.partition(":")
        try:
            shares[name.strip()] = float(share) if colon else 1.0
        except ValueError:
            raise RitornelloError(f"the share {share!r} of {name} is no number; write such as chopin:0.7") from None
    if any(not 0 < share < np.inf for share in shares.values()):
        raise RitornelloError(f"the shares in {composers!r} must be above 0")
    wanted |= {f"composer={name}": share / sum(shares.values()) for name, share in shares.items()}
    for name, step in steps.items():
        if step is not None and not 1 <= step <= STEPS:
            raise RitornelloError(f"{name} is {step}; it must lie between 1 and {STEPS}")
        wanted |= {f"{name}={step}": 1.0} if step is not None else {}
    return wanted


def weights(labels: Sequence[str], told: Mapping[str, float]) -> NDArray[np.float32]:
    """(L,) how much of each of a model's labels is told, steps by `STRENGTH` more. Names may be in any case.

    Raises:
        RitornelloError: for a label that the model does not know, with what it knows.
    """
    places = {label.casefold(): place for place, label in enumerate(labels)}
    result = np.zeros(len(labels), np.float32)
    for label, weight in told.items():
        if label.casefold() not in places:
            kind, _, value = label.partition("=")
            known = [name.partition("=")[2] for name in labels if name.startswith(f"{kind}=")]
            if not known:
                raise RitornelloError(f"this model cannot be told a {kind}; leave --{kind} out or take another model")
            near = get_close_matches(value.casefold(), [name.casefold() for name in known], n=1, cutoff=0.5)
            meant = next((name for name in known if near and name.casefold() == near[0]), None)
            hint = f"do you mean {meant}? " if meant else ""
            raise RitornelloError(f"this model does not know the {kind} {value!r}; {hint}it knows {', '.join(known)}")
        result[places[label.casefold()]] = STRENGTH.get(label.casefold().partition("=")[0], 1.0) * weight
    return result
