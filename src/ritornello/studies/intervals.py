"""How sure a likelihood is: bootstrap over compositions, pieces and seeds paired.

A piece is a performance, and a composition may have been performed several times: those stand and fall together. So
compositions are drawn with replacement, each with all its performances, and nats/token are taken of what was drawn
(Efron and Tibshirani 1993, section 8.5, for clusters). Axes: P pieces, K blocks of a piece.
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.studies.results import BLOCK_TOKENS
from ritornello.studies.summary import Row

RESAMPLES = 10_000
COVERED = 0.95

Part = Literal["beginnings", "by_piece"]


class Interval(NamedTuple):
    """Nats/token, or a difference of two, and where it would lie with other compositions."""

    mean: float
    low: float
    high: float


def nats_per_token(row: Row, part: Part) -> Interval:
    """Of the beginnings of all pieces, or of the whole pieces that were read; the mean over seeds."""
    runs = [run[part] for run in row.runs]
    nats = np.mean([_nats(pieces) for pieces in runs], axis=0)
    return _bootstrap(nats, _tokens(runs[0]), _compositions(runs[0]))


def behind(row: Row, other: Row, part: Part) -> Interval | None:
    """Nats/token that a row is worse by than another, over their common seeds; None without one."""
    pairs = row.paired(other)
    if not pairs:
        return None
    more = [_nats(ours[part]) - _nats(theirs[part]) for ours, theirs in pairs]
    pieces = pairs[0][0][part]
    return _bootstrap(np.mean(more, axis=0), _tokens(pieces), _compositions(pieces))


def behind_by_seed(row: Row, other: Row, part: Part) -> list[float]:
    """Nats/token that a row is worse by with each common seed."""
    pairs = [(ours[part], theirs[part]) for ours, theirs in row.paired(other)]
    return [float((_nats(a).sum() - _nats(b).sum()) / _tokens(a).sum()) for a, b in pairs]


def by_block(row: Row, part: Part) -> list[Interval]:
    """Nats/token from block to block of `BLOCK_TOKENS`, each of the pieces that are as long."""
    runs = [_blocks(run[part]) for run in row.runs]
    return _of_blocks(np.mean(runs, axis=0), row.runs[0][part])


def behind_by_block(row: Row, other: Row, part: Part) -> list[Interval]:
    """`behind`, from block to block."""
    pairs = row.paired(other)
    more = [_blocks(ours[part]) - _blocks(theirs[part]) for ours, theirs in pairs]
    return _of_blocks(np.mean(more, axis=0), pairs[0][0][part]) if pairs else []


def _of_blocks(nats: NDArray[np.float64], pieces: list[dict[str, Any]]) -> list[Interval]:
    lengths, compositions = _tokens(pieces), _compositions(pieces)
    found = []
    for block in range(nats.shape[1]):
        tokens = np.clip(lengths - block * BLOCK_TOKENS, 0, BLOCK_TOKENS)
        there = tokens > 0
        found.append(_bootstrap(nats[there, block], tokens[there], compositions[there]))
    return found


def _bootstrap(nats: NDArray[np.float64], tokens: NDArray[np.int64], compositions: NDArray[np.str_]) -> Interval:
    names, which = np.unique(compositions, return_inverse=True)
    sums, counts = np.bincount(which, nats), np.bincount(which, tokens)
    drawn = np.random.default_rng(0).integers(0, len(names), (RESAMPLES, len(names)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.quantile(means, [(1 - COVERED) / 2, (1 + COVERED) / 2])
    return Interval(float(sums.sum() / counts.sum()), float(low), float(high))


def _blocks(pieces: list[dict[str, Any]]) -> NDArray[np.float64]:
    """(P, K) nats, 0 behind a piece's end."""
    table = np.zeros((len(pieces), max(len(piece["blocks"]) for piece in pieces)))
    for line, piece in zip(table, pieces):
        line[: len(piece["blocks"])] = piece["blocks"]
    return table


def _nats(pieces: list[dict[str, Any]]) -> NDArray[np.float64]:
    return np.array([piece["nats"] for piece in pieces])


def _tokens(pieces: list[dict[str, Any]]) -> NDArray[np.int64]:
    return np.array([piece["tokens"] for piece in pieces])


def _compositions(pieces: list[dict[str, Any]]) -> NDArray[np.str_]:
    return np.array([piece["composition"] for piece in pieces])
