"""Which pitches a piece uses and how it moves between them: features of the whole piece.

Every feature is a pure function of a `Piece`. Consecutive notes are neighbours in order of onset, then pitch. Pitch
classes are numbered from C = 0. Source: PerceiverS (arXiv 2411.08307, section VI-A) and, where named, mgeval, the
program of Yang & Lerch, "On the evaluation of generative models in music" (2018), which reads some words differently.
"""

from __future__ import annotations

import numpy as np

from ritornello.metrics.registry import Floats, feature, microseconds, moves, shares
from ritornello.notes import Piece

ADJOINING_US = 50_000
FRAMES_PER_S = 100


@feature("PC", "perceivers", "pitch classes", "different pitch classes")
def pitch_classes_used(piece: Piece) -> float:
    """PC: how many of the 12 pitch classes occur; 0 without notes."""
    return float(len(np.unique(piece.pitch % 12)))


@feature("NC", "perceivers", "pitches", "different pitches")
@feature("total_used_pitch", "mgeval", "pitches", "different pitches")
def pitches_used(piece: Piece) -> float:
    """NC: how many different pitches occur, octaves told apart; 0 without notes.

    mgeval calls this ``total_used_pitch``, and misses notes within one frame of 10 ms.
    """
    return float(len(np.unique(piece.pitch)))


@feature("total_used_note", "mgeval", "notes", "notes")
def notes_struck(piece: Piece) -> float:
    """How many notes there are; 0 without notes. mgeval calls this ``total_used_note``."""
    return float(len(piece))


@feature("PCH", "perceivers", "share", "how often each pitch class is struck")
def pitch_class_histogram(piece: Piece) -> Floats:
    """PCH: (12,) share of the notes in each pitch class, by count. Zeros without notes."""
    return shares(np.bincount(piece.pitch % 12, minlength=12))


@feature("total_pitch_class_histogram", "mgeval", "share", "pitch classes, by velocity and length", of_keys=True)
def loudness_weighted_histogram(piece: Piece) -> Floats:
    """(12,) share of velocity x duration in each pitch class; durations in frames of 10 ms, pedal not applied.

    mgeval's ``total_pitch_class_histogram``: sums over a piano roll of velocities at 100 frames per second. A note
    counts from the frame of its onset up to that of its release. Zeros where no note reaches a second frame.
    """
    frames = np.floor(piece.offset * FRAMES_PER_S) - np.floor(piece.onset * FRAMES_PER_S)
    return shares(np.bincount(piece.pitch % 12, weights=frames * piece.velocity, minlength=12))


@feature("PCTM", "perceivers", "share", "which pitch class follows which")
def pitch_class_transitions(piece: Piece) -> Floats:
    """PCTM: (12, 12) share of each move from a note's pitch class to the next note's; rows are what it moves from.

    The whole matrix sums to 1: so a pitch class heard once weighs no more than its one move. Zeros with fewer than two
    notes.
    """
    return shares(moves(piece.pitch % 12, 12))


@feature("pitch_class_transition_matrix", "mgeval", "pairs", "which pitch class follows which at once", of_keys=True)
def adjoining_pitch_classes(piece: Piece) -> Floats:
    """(12, 12) how many pairs there are of a note that ends and a note that begins less than 50 ms before or after.

    mgeval's ``pitch_class_transition_matrix``: rows are the pitch class of the note that ends, pedal not applied; the
    counts are raw, and a note shorter than 50 ms adjoins itself. Zeros with fewer than two notes.
    """
    counts = np.zeros((12, 12))
    if len(piece) < 2:
        return counts
    pitch_class = piece.pitch % 12
    begins, ends = microseconds(piece.onset), microseconds(piece.offset)
    first = np.searchsorted(begins, ends - ADJOINING_US, side="right")
    last = np.searchsorted(begins, ends + ADJOINING_US, side="left")
    begun = np.zeros((len(piece) + 1, 12))
    np.cumsum(pitch_class[:, None] == np.arange(12), axis=0, out=begun[1:])
    np.add.at(counts, pitch_class, begun[last] - begun[first])
    return counts


@feature("PR", "perceivers", "semitones", "from the lowest pitch to the highest")
@feature("pitch_range", "mgeval", "semitones", "from the lowest pitch to the highest")
def pitch_range(piece: Piece) -> float:
    """PR: semitones from the lowest pitch to the highest; 0 without notes. mgeval alike."""
    return float(np.ptp(piece.pitch)) if len(piece) else 0.0


@feature("pitch_mean", "playing", "MIDI pitch", "register: the mean pitch")
def pitch_mean(piece: Piece) -> float:
    """Mean MIDI pitch of the notes, by count: the register; 0 without notes."""
    return float(piece.pitch.mean()) if len(piece) else 0.0


@feature("pitch_lowest", "playing", "MIDI pitch", "the lowest pitch")
def pitch_lowest(piece: Piece) -> float:
    """The lowest MIDI pitch; 0 without notes."""
    return float(piece.pitch.min()) if len(piece) else 0.0


@feature("pitch_highest", "playing", "MIDI pitch", "the highest pitch")
def pitch_highest(piece: Piece) -> float:
    """The highest MIDI pitch; 0 without notes."""
    return float(piece.pitch.max()) if len(piece) else 0.0


@feature("PI", "perceivers", "semitones", "how far apart consecutive notes are")
@feature("avg_pitch_shift", "mgeval", "semitones", "how far apart consecutive notes are")
def pitch_interval(piece: Piece) -> float:
    """PI: mean distance between consecutive notes in semitones, chords read upwards; 0 with fewer than two notes.

    mgeval's ``avg_pitch_shift``, which reads chords in the order of the file.
    """
    return float(np.abs(np.diff(piece.pitch.astype(int))).mean()) if len(piece) > 1 else 0.0
