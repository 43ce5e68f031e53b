"""The same features within segments: a piece in 64 parts of equal duration.

A piece lasts from its first onset until its last note falls silent, so silence before it moves nothing; a note belongs
to the segment of its onset, and an onset on a border to the later one. Source: PerceiverS (arXiv 2411.08307,
section VI-A); where a piece begins and how held notes count is not said there.
"""

from __future__ import annotations

import numpy as np

from ritornello.metrics.registry import Counts, Floats, duration_us, feature, microseconds
from ritornello.notes import Piece

SEGMENTS = 64


@feature("PC/seg", "perceivers", "pitch classes", "different pitch classes in a 64th")
def pitch_classes_per_segment(piece: Piece) -> Floats:
    """PC/seg: (64,) how many of the 12 pitch classes are struck in each segment; 0 in a silent one."""
    return np.count_nonzero(_counts(piece, piece.pitch % 12, 12), axis=1).astype(np.float64)


@feature("NC/seg", "perceivers", "pitches", "different pitches in a 64th")
def pitches_per_segment(piece: Piece) -> Floats:
    """NC/seg: (64,) how many different pitches are struck in each segment; 0 in a silent one."""
    return np.count_nonzero(_counts(piece, piece.pitch, 128), axis=1).astype(np.float64)


@feature("PCH/seg", "perceivers", "share", "pitch classes struck in a 64th")
def pitch_class_histograms(piece: Piece) -> Floats:
    """PCH/seg: (64, 12) share of each segment's notes in each pitch class; zeros in a silent one."""
    counts = _counts(piece, piece.pitch % 12, 12)
    return counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)


@feature("IOI/seg", "perceivers", "s", "time to the next note in a 64th")
def inter_onset_intervals(piece: Piece) -> Floats:
    """IOI/seg: (64,) mean seconds between consecutive onsets of each segment, the zeros inside chords kept.

    A segment with fewer than two onsets holds no interval and is given its own duration, for 0 would say that it is the
    fastest of all. Zeros without notes.
    """
    segment = _segment(piece)
    first = np.searchsorted(segment, np.arange(SEGMENTS), side="left")
    last = np.searchsorted(segment, np.arange(SEGMENTS), side="right") - 1
    intervals = np.full(SEGMENTS, duration_us(piece) / 1e6 / SEGMENTS)
    known = last > first
    first, last = first[known], last[known]
    intervals[known] = (piece.onset[last] - piece.onset[first]) / (last - first)
    return intervals


def _segment(piece: Piece) -> Counts:
    """(N,) segment of each note."""
    since_us = microseconds(piece.onset - piece.onset[:1])
    return np.minimum(since_us * SEGMENTS // max(duration_us(piece), 1), SEGMENTS - 1)


def _counts(piece: Piece, classes: np.ndarray, n_classes: int) -> Counts:
    """(64, n) how many notes of each class every segment has."""
    places = _segment(piece) * n_classes + classes
    return np.bincount(places, minlength=SEGMENTS * n_classes).reshape(SEGMENTS, n_classes)
