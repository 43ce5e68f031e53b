"""Tokens to notes as they are told, one token at a time, for live use; agrees with ``encoding.decode``."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.codec import vocabulary as v


class Note(NamedTuple):
    """One note: onset and offset in seconds from the piece's start, MIDI pitch, MIDI velocity."""

    onset: float
    offset: float
    pitch: int
    velocity: int


class StreamDecoder:
    """Decodes a token stream; memory is bounded by the 128 keys.

    >>> decoder = StreamDecoder()
    >>> [note for token in (371, 60, 305, 188) for note in decoder.feed(token)]
    [Note(onset=0.0, offset=0.5, pitch=60, velocity=62)]
    """

    def __init__(self) -> None:
        self.ended = False
        self._step = 0
        self._velocity = v.bin_velocity(v.DEFAULT_VELOCITY_BIN)
        self._open: dict[int, tuple[int, int]] = {}  # pitch -> (onset step, velocity)

    @property
    def seconds(self) -> float:
        """The time that the stream has reached."""
        return self._step / v.STEPS_PER_S

    @property
    def step(self) -> int:
        """The same in 10 ms steps."""
        return self._step

    @property
    def velocity(self) -> int:
        """MIDI velocity of the next strike."""
        return self._velocity

    def to_array(self) -> NDArray[np.int64]:
        """All that it remembers, (259,)."""
        keys = np.zeros((v.N_PITCHES, 2), np.int64)
        for pitch, key in self._open.items():
            keys[pitch] = key
        return np.r_[self.ended, self._step, self._velocity, keys.ravel()]

    @classmethod
    def from_array(cls, saved: NDArray[np.int64]) -> StreamDecoder:
        """What `to_array` gave."""
        decoder = cls()
        ended, decoder._step, decoder._velocity, *keys = saved.tolist()
        decoder.ended = bool(ended)
        pairs = zip(keys[::2], keys[1::2])
        decoder._open = {pitch: key for pitch, key in enumerate(pairs) if key[1]}  # no strike has the velocity 0
        return decoder

    def feed(self, token: int) -> list[Note]:
        """The notes that this token finishes: none, one, or at END all that still sound."""
        if self.ended:
            return []
        if v.NOTE_ON <= token < v.NOTE_OFF:
            return self._strike(token - v.NOTE_ON)
        if v.NOTE_OFF <= token < v.SHIFT:
            return self._release(token - v.NOTE_OFF)
        if v.SHIFT <= token < v.VELOCITY:
            self._step += token - v.SHIFT + 1
        elif v.VELOCITY <= token < v.END:
            self._velocity = v.bin_velocity(token - v.VELOCITY)
        elif token == v.END:
            return self.finish()
        return []

    def finish(self) -> list[Note]:
        """Ends the stream here; the notes that still sound are closed now, in ascending pitch."""
        self.ended = True
        return [note for pitch in sorted(self._open) for note in self._release(pitch)]

    def _strike(self, pitch: int) -> list[Note]:
        if pitch in self._open and self._open[pitch][0] == self._step:
            return []
        finished = self._release(pitch)
        self._open[pitch] = (self._step, self._velocity)
        return finished

    def _release(self, pitch: int) -> list[Note]:
        if pitch not in self._open:
            return []
        onset, velocity = self._open.pop(pitch)
        return [Note(onset / v.STEPS_PER_S, self._step / v.STEPS_PER_S, pitch, velocity)]
