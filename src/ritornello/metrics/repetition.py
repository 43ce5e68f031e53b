"""What comes back: autocorrelation of tokens, and how many notes repeat what was played before.

After PerceiverS (arXiv 2411.08307, equation 9 and figures 3 to 5): a model that falls into a loop shows as more
repetition of what is near than people play.

A note *repeats* if it ends an n-gram that occurred before: 4 pitches and the 3 onset intervals between them, rounded to
0.1 s, all of 1 s and more taken as one. It repeats *near* if the latest earlier end of that n-gram lies within 30 s,
and *far* if it lies further back. Notes struck less than 50 ms after a chord's first note belong to this chord, have
its time and are read upwards, so that a hand's unevenness does not hide a repeat.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello.errors import RitornelloError
from ritornello.metrics.registry import Counts, Floats, feature, microseconds
from ritornello.notes import Piece

NGRAM_NOTES = 4
NEAR_US, WINDOW_US = 30_000_000, 10_000_000
CHORD_US, STEP_US, LONGEST_STEPS = 50_000, 100_000, 10
BAND = (0.05, 0.95)
BAND_PIECES = 5


class RepetitionCurve(NamedTuple):
    """(W,) shares of the notes of each window of 10 s that repeat near and far; 0 in a window without notes."""

    near: Floats
    far: Floats


class RepetitionBand(NamedTuple):
    """(2, W) 5% and 95% quantiles of `RepetitionCurve` over the pieces that reach a window, and how many these are."""

    near: Floats
    far: Floats
    pieces: Counts


def autocorrelation(sequence: ArrayLike, max_lag: int) -> Floats:
    """(max_lag + 1,) autocorrelation of a sequence (T,) of tokens, or of any numbers, at the lags 0 to ``max_lag``.

    R(k) = sum over t of (x_t - m)(x_{t+k} - m) / sum over t of (x_t - m)^2, where m is the sequence's mean (PerceiverS,
    equation 9). Token ids count as numbers, as they do there. A sequence that never changes has 1 at every lag below T;
    from lag T on the value is 0.
    """
    x = np.asarray(sequence, np.float64).reshape(-1)
    correlation = np.zeros(max_lag + 1)
    lags = min(max_lag + 1, len(x))
    if not lags:
        return correlation
    if np.ptp(x) == 0:
        correlation[:lags] = 1.0
        return correlation
    room = 2 ** (2 * len(x)).bit_length()
    products = np.fft.irfft(np.abs(np.fft.rfft(x - x.mean(), room)) ** 2, room)
    correlation[:lags] = products[:lags] / products[0]
    return correlation


@feature("near_repetition", "structure", "share", "notes that repeat the last 30 s")
def near_repetition(piece: Piece) -> float:
    """Share of the notes that repeat what was played within 30 s before; 0 without notes."""
    near = _repeats(piece).near
    return float(near.mean()) if len(near) else 0.0


@feature("far_repetition", "structure", "share", "notes that repeat what is longer ago")
def far_repetition(piece: Piece) -> float:
    """Share of the notes that repeat what was last played more than 30 s before; 0 without notes."""
    far = _repeats(piece).far
    return float(far.mean()) if len(far) else 0.0


def repetition_curve(piece: Piece) -> RepetitionCurve:
    """`near_repetition` and `far_repetition` in windows of 10 s, from the first onset on; W = 0 without notes."""
    repeats = _repeats(piece)
    window = (repeats.time_us - repeats.time_us[:1]) // WINDOW_US
    notes = np.maximum(np.bincount(window), 1)
    return RepetitionCurve(
        np.bincount(window, weights=repeats.near) / notes, np.bincount(window, weights=repeats.far) / notes
    )


def repetition_band(curves: Sequence[RepetitionCurve]) -> RepetitionBand:
    """How much a set of pieces repeats, window by window, as far as at least 5 of them reach.

    Raises:
        RitornelloError: for fewer than 5 pieces with notes.
    """
    lengths = np.sort([len(curve.near) for curve in curves])[::-1]
    if len(lengths) < BAND_PIECES or not lengths[BAND_PIECES - 1]:
        raise RitornelloError(f"a band of repetition needs {BAND_PIECES} pieces with notes; give more")
    reached = int(lengths[BAND_PIECES - 1])
    near, far = np.moveaxis(np.nanquantile(_windows(curves, reached), BAND, axis=1), 1, 0)
    return RepetitionBand(near, far, (lengths[:, None] > np.arange(reached)).sum(axis=0))


def repetition_mean(curves: Sequence[RepetitionCurve]) -> RepetitionCurve:
    """Mean over the pieces that reach a window, as far as at least 5 of them do (or all, of fewer)."""
    lengths = np.sort([len(curve.near) for curve in curves])[::-1]
    reached = int(lengths[min(BAND_PIECES, len(lengths)) - 1])
    return RepetitionCurve(*np.nanmean(_windows(curves, reached), axis=1))


def _windows(curves: Sequence[RepetitionCurve], reached: int) -> Floats:
    """(2, pieces, windows) near and far; no number where a piece has ended."""
    rows = np.full((2, len(curves), reached), np.nan)
    for i, curve in enumerate(curves):
        rows[:, i, : len(curve.near)] = np.stack(curve)[:, :reached]
    return rows


def shares_above(curves: Sequence[RepetitionCurve], band: RepetitionBand) -> tuple[float, float]:
    """Near and far: the share of all windows, as far as the band reaches, in which a piece repeats more than the band.

    About 5% for the pieces that the band is made of; much more near repetition is a loop. 0 without windows.
    """
    reached = len(band.pieces)
    near, far = (np.concatenate([curve[kind][:reached] for curve in curves]) for kind in (0, 1))
    window = np.concatenate([np.arange(min(len(curve.near), reached)) for curve in curves])
    if not len(window):
        return 0.0, 0.0
    return float(np.mean(near > band.near[1, window])), float(np.mean(far > band.far[1, window]))


class _Repeats(NamedTuple):
    """Of each note, in order of reading: when it is struck, whether it repeats near and far, all (N,)."""

    time_us: Counts
    near: NDArray[np.bool_]
    far: NDArray[np.bool_]


@lru_cache(maxsize=1)  # three features of a piece ask one after another
def _repeats(piece: Piece) -> _Repeats:
    chord, struck_us = _chords(piece)
    pitch = piece.pitch[np.lexsort((piece.pitch, chord))].astype(np.int64)
    time_us = struck_us[chord]
    ids = _ngrams(pitch, np.diff(time_us))
    order = np.argsort(ids, kind="stable")
    again = ids[order[1:]] == ids[order[:-1]]
    later, earlier = order[1:][again] + NGRAM_NOTES - 1, order[:-1][again] + NGRAM_NOTES - 1
    near, far = np.zeros((2, len(piece)), np.bool_)
    near[later] = time_us[later] - time_us[earlier] <= NEAR_US
    far[later] = ~near[later]
    return _Repeats(time_us, near, far)


def _chords(piece: Piece) -> tuple[Counts, Counts]:
    """(N,) the number of each note's chord, and (chords,) when each is struck, in microseconds."""
    onset_us = microseconds(piece.onset)
    following = np.searchsorted(onset_us, onset_us + CHORD_US).tolist()
    begins, note, notes = [], 0, len(piece)
    while note < notes:
        begins.append(note)
        note = following[note]
    starts = np.zeros(len(piece), np.int64)
    starts[begins] = 1
    return np.cumsum(starts) - 1, onset_us[begins]


def _ngrams(pitch: Counts, interval_us: Counts) -> Counts:
    """(N - 3,) a number for each n-gram, the same for the same n-grams; none with fewer than 4 notes."""
    steps = np.minimum((interval_us + STEP_US // 2) // STEP_US, LONGEST_STEPS)
    moves = steps * 128 + pitch[1:]
    ids = pitch
    for notes in range(1, NGRAM_NOTES):
        if len(ids) < 2:
            return np.zeros(0, np.int64)
        longer = ids[:-1] * (128 * (LONGEST_STEPS + 1)) + moves[notes - 1 :]
        ids = np.unique(longer, return_inverse=True)[1]
    return ids
