"""Translation while music is made: tokens to notes as they are told, keys and pedal to tokens as they are played.

`StreamDecoder` agrees with ``encoding.decode``, `StreamEncoder` with ``encoding.encode``.
"""

from __future__ import annotations

from math import floor
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


class StreamEncoder:
    """Encodes what is played on one piano, key by key; memory is bounded by the 128 keys.

    Events come in order of their times, which are seconds from the piece's start; of events at one time pedals come
    first, then releases. A step's events are told when the next step begins, since only then it is known what they are.

    Args:
        told: the step that earlier tokens have reached, to go on from.
        velocity_bin: of the last strike in those; -1 for none.
        step: the first in which something may happen.

    >>> encoder = StreamEncoder()
    >>> encoder.strike(0.0, 60, 62)
    >>> encoder.release(0.5, 60)
    >>> encoder.until(0.6)
    [371, 60, 305, 188]
    """

    def __init__(self, told: int = 0, velocity_bin: int = -1, *, step: int = 0) -> None:
        self._told, self._bin = told, velocity_bin  # where the tokens stand, and the bin of the last strike in them
        self._tokens: list[int] = []  # told, and not yet asked for
        self._step = step  # the open one
        self._strikes: dict[int, int] = {}  # of the open step: pitch -> velocity
        self._releases: dict[int, set[int]] = {}  # by step, from the open one on
        self._since: dict[int, int] = {}  # by sounding pitch: the step of its strike
        self._held: set[int] = set()  # keys that are down
        self._pedal = False

    @property
    def sounding(self) -> list[int]:
        """Pitches that sound, ascending: of keys that are down, and of those that the pedal holds."""
        return sorted(self._since)

    def strike(self, time_s: float, pitch: int, velocity: int) -> None:
        """A key goes down."""
        self._to(time_s)
        if pitch in self._strikes:  # of one key one strike in a step: with the greatest velocity and the last release
            velocity = max(velocity, self._strikes[pitch])
            self._releases.get(self._step + 1, set()).discard(pitch)
        elif pitch in self._since:
            self._end(pitch)
        self._strikes[pitch], self._since[pitch] = velocity, self._step
        self._held.add(pitch)

    def release(self, time_s: float, pitch: int) -> None:
        """A key comes up; its note ends unless the pedal holds it."""
        self._to(time_s)
        self._held.discard(pitch)
        if pitch in self._since and not self._pedal:
            self._end(pitch)

    def pedal(self, time_s: float, down: bool) -> None:
        """The sustain pedal goes down, or comes up and lets go what no key holds."""
        self._to(time_s)
        self._pedal = down
        for pitch in [] if down else self._since.keys() - self._held:
            self._end(pitch)

    def until(self, time_s: float) -> list[int]:
        """What was not yet asked for of the steps before that of ``time_s``."""
        self._to(time_s)
        tokens, self._tokens = self._tokens, []
        return tokens

    def _to(self, time_s: float) -> None:
        """Closes the steps before that of a time. What comes late is taken to come now."""
        step = floor(time_s * v.STEPS_PER_S + 0.5)
        while self._step < step and (self._strikes or self._releases):
            self._tell()
            self._step = min(self._releases, default=step)
        self._step = max(self._step, step)

    def _tell(self) -> None:
        """The open step's events: shifts, releases, strikes."""
        releases = sorted(self._releases.pop(self._step, ()))
        if releases or self._strikes:
            seconds, rest = divmod(self._step - self._told - 1, v.MAX_SHIFT_STEPS)
            if self._step > self._told:
                self._tokens += [v.SHIFT + v.MAX_SHIFT_STEPS - 1] * seconds + [v.SHIFT + rest]
            self._told = self._step
        self._tokens += [v.NOTE_OFF + pitch for pitch in releases]
        for pitch, velocity in sorted(self._strikes.items()):
            if v.velocity_bin(velocity) != self._bin:
                self._bin = int(v.velocity_bin(velocity))
                self._tokens.append(v.VELOCITY + self._bin)
            self._tokens.append(v.NOTE_ON + pitch)
        self._strikes = {}

    def _end(self, pitch: int) -> None:
        """A note's end: now, a step after its strike at the soonest."""
        at = max(self._step, self._since.pop(pitch) + 1)
        self._releases.setdefault(at, set()).add(pitch)
