"""How a piece is played: velocity, density, polyphony, note lengths.

Not among PerceiverS's features, but what its listeners would notice. Velocities are MIDI's, 1 to 127, times seconds. A
piece lasts from its first onset until its last note falls silent, the pedal applied.
"""

from __future__ import annotations

import numpy as np

from ritornello.metrics.registry import Floats, duration_us, feature, shares
from ritornello.notes import Piece

VELOCITY_BINS = 32


@feature("velocity_mean", "playing", "velocity", "how loud it is on the whole")
def velocity_mean(piece: Piece) -> float:
    """Mean velocity of the notes; 0 without notes."""
    return float(piece.velocity.mean()) if len(piece) else 0.0


@feature("velocity_spread", "playing", "velocity", "how much loudness varies")
def velocity_spread(piece: Piece) -> float:
    """Standard deviation of the velocities over all notes (ddof 0); 0 without notes."""
    return float(piece.velocity.std()) if len(piece) else 0.0


@feature("velocity_step", "playing", "velocity", "loudness from note to note")
def velocity_step(piece: Piece) -> float:
    """Mean change of velocity, up or down, from a note to the next, chords read upwards; 0 with fewer than two."""
    return float(np.abs(np.diff(piece.velocity.astype(int))).mean()) if len(piece) > 1 else 0.0


@feature("velocity_histogram", "playing", "share", "how often each loudness occurs")
def velocity_histogram(piece: Piece) -> Floats:
    """(32,) share of the notes in bins of four velocities, 1-4 the first, as tokens write them. Zeros without notes."""
    return shares(np.bincount((piece.velocity - 1) // 4, minlength=VELOCITY_BINS))


@feature("note_density", "playing", "notes/s", "notes per second")
def note_density(piece: Piece) -> float:
    """Notes per second of the piece's duration; 0 for a piece without duration."""
    duration = duration_us(piece)
    return len(piece) / duration * 1e6 if duration else 0.0


@feature("polyphony", "playing", "notes", "notes that sound together")
def polyphony(piece: Piece) -> float:
    """Mean number of notes that sound together, over the time at which any sounds; 0 where none ever does.

    The pedal is applied. MusPy's polyphony (Dong et al. 2020) in continuous time.
    """
    if not len(piece):
        return 0.0
    offset = piece.sounding_offset()
    silent_from = np.r_[piece.onset[0], np.maximum.accumulate(offset)[:-1]]
    any_sounds_s = np.maximum(offset - np.maximum(piece.onset, silent_from), 0).sum()
    return float((offset - piece.onset).sum() / any_sounds_s) if any_sounds_s else 0.0


@feature("key_length", "playing", "s", "how long keys are held", of_keys=True)
def key_length(piece: Piece) -> float:
    """Mean seconds for which a key is held, free of the pedal; 0 without notes.

    Only comparable between sets that both have pedals or both have none (see `sounding_length`).
    """
    return float((piece.offset - piece.onset).mean()) if len(piece) else 0.0


@feature("sounding_length", "playing", "s", "how long notes sound, by key and pedal")
def sounding_length(piece: Piece) -> float:
    """Mean seconds for which a note sounds, the pedal applied (`Piece.sounding_offset`); 0 without notes."""
    return float((piece.sounding_offset() - piece.onset).mean()) if len(piece) else 0.0
