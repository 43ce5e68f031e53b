"""How fast notes follow each other and how long they last: features of the whole piece.

Times are in seconds; ties are decided on whole microseconds. A *key length* is how long a key is held; a *sounding
length* ends when the note falls silent (`Piece.sounding_offset`). PerceiverS (arXiv 2411.08307, section VI-A) turns the
pedal into the notes' durations before all else, so its features use sounding lengths; mgeval (Yang & Lerch 2018) reads
note-offs, so its features use key lengths. Where one of two sets has no pedals, only sounding lengths can be compared.
"""

from __future__ import annotations

import numpy as np

from ritornello.metrics.registry import Counts, Floats, duration_us, feature, microseconds, moves, shares
from ritornello.notes import Piece

UNITS_PER_S = 48  # of which 96 make a bar of 2 s
LENGTH_CLASSES = np.array([96, 48, 24, 12, 6, 72, 36, 18, 9, 32, 16, 8])
"""whole to 32nd-like notes by halves, dotted half to dotted 16th, triplets; in 96ths of a bar of 2 s"""


@feature("IOI", "perceivers", "s", "time from a note to the next")
@feature("avg_IOI", "mgeval", "s", "time from a note to the next")
def inter_onset_interval(piece: Piece) -> float:
    """IOI: mean seconds between consecutive onsets, the zeros inside chords kept. mgeval's ``avg_IOI`` alike.

    With fewer than two notes no interval is known, only that none is shorter than the piece: then its duration.
    """
    if len(piece) < 2:
        return duration_us(piece) / 1e6
    return float(piece.onset[-1] - piece.onset[0]) / (len(piece) - 1)


@feature("NLH", "perceivers", "share", "how long notes last")
def note_length_histogram(piece: Piece) -> Floats:
    """NLH: (12,) share of the notes by sounding length, in the nearest of `LENGTH_CLASSES`. Zeros without notes."""
    return shares(np.bincount(_classes(piece.sounding_offset() - piece.onset), minlength=12))


@feature("NLTM", "perceivers", "share", "which note length follows which")
def note_length_transitions(piece: Piece) -> Floats:
    """NLTM: (12, 12) share of each move from a note's length class to the next note's; rows are what it moves from.

    By sounding lengths; the whole matrix sums to 1. Zeros with fewer than two notes.
    """
    return shares(moves(_classes(piece.sounding_offset() - piece.onset), 12))


@feature("note_length_hist", "mgeval", "share", "how long keys are held", of_keys=True)
def key_length_histogram(piece: Piece) -> Floats:
    """(12,) as `note_length_histogram` by key lengths: mgeval's ``note_length_hist``. Zeros without notes."""
    return shares(np.bincount(_classes(piece.offset - piece.onset), minlength=12))


@feature("note_length_transition_matrix", "mgeval", "moves", "which key length follows which", of_keys=True)
def key_length_moves(piece: Piece) -> Floats:
    """(12, 12) raw counts of the moves of `note_length_transitions` by key lengths. Zeros with fewer than two notes.

    mgeval's ``note_length_transition_matrix``.
    """
    return moves(_classes(piece.offset - piece.onset), 12).astype(np.float64)


def _classes(lengths_s: Floats) -> Counts:
    """(N,) places in `LENGTH_CLASSES` of the nearest class; the first of them on a tie."""
    units = microseconds(lengths_s)[:, None] * UNITS_PER_S  # of a millionth of a 96th of a bar
    return np.abs(units - LENGTH_CLASSES * 1_000_000).argmin(axis=1)
