"""The performance vocabulary as an offset table.

The 388 events of ``note_seq``'s performance encoding (S. Oore et al., "This Time with Feeling", 2018; 10 ms steps and
32 velocity bins as in Huang et al., "Music Transformer", 2019), END, and two specials that are never predicted.
"""

from __future__ import annotations

import hashlib
from typing import TypeVar

import numpy as np
from numpy.typing import NDArray

NOTE_ON = 0  # + pitch
NOTE_OFF = 128  # + pitch
SHIFT = 256  # + steps - 1
VELOCITY = 356  # + bin
END = 388
N_EVENTS = 389  # what a model predicts: everything above
START = 389  # what a model is given before the first event
PAD = 390  # fills rows that hold no event
VOCABULARY_SIZE = 391

N_PITCHES = 128
STEP_S = 0.01
STEPS_PER_S = 100
MAX_SHIFT_STEPS = 100
N_VELOCITY_BINS = 32
DEFAULT_VELOCITY_BIN = 15  # of a strike that no velocity event precedes: velocity 62, mezzo-forte

_LAYOUT = (
    f"performance/1 on={NOTE_ON} off={NOTE_OFF} shift={SHIFT}x{MAX_SHIFT_STEPS}@{STEPS_PER_S}Hz "
    f"velocity={VELOCITY}x{N_VELOCITY_BINS} end={END} start={START} pad={PAD} order=off<on,pitch"
)
FINGERPRINT = hashlib.sha256(_LAYOUT.encode()).hexdigest()[:16]  # of corpora and checkpoints made with this table


Integers = TypeVar("Integers", int, NDArray[np.int64])


def velocity_bin(velocity: Integers) -> Integers:
    """Bin 0-31 of a MIDI velocity 1-127; four velocities share a bin."""
    return (velocity - 1) // 4


def bin_velocity(bin: Integers) -> Integers:
    """A MIDI velocity in the middle of a bin: at most 2 away from every velocity of the bin."""
    return 4 * bin + 2
