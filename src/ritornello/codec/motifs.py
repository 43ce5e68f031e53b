"""The motif memory: what followed the last time that the music went as it goes now, as an input for a model.

A score follower over the piece's own past. Where four strikes in a row have the intervals of four earlier ones, at any
transposition, a pointer is set behind those and follows what was played then: each new strike is looked for among the
next few old ones, in any order, so that chords may be spread otherwise, notes added and left out. What the old passage
would go on with is told after every token: the event, and the next strike's pitch, how long until it and how loud; how
many strikes have been followed, and how long ago they were played.

It is a pure function of the tokens so far, like the grammar, in memory that is allocated once: strikes in a ring and a
table of where intervals stood last, the oldest forgotten. Finding an earlier place by a hash of what stands there is
how compressors do it (J. Ziv, A. Lempel, "A universal algorithm for sequential data compression", 1977).

A passage may also be called back: the pointer is set to it by hand, and its first `CALL_STRIKES` strikes are told under
an id that says so. In training those are returns whose beginnings are known beforehand (`returns`), so that a model
learns to go on from anything with what it is called to.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello.codec import vocabulary as v

INTERVALS = 3  # that must be as they were for a pointer to be set: four strikes
LOOK_AHEAD = 4  # old strikes among which a new one is looked for
LATE_STEPS = 5  # an old strike so much earlier than one that was followed is taken to be left out
MAX_MISSES = 4  # strikes in a row that are not found, and the pointer is lost
MAX_MATCH = 24  # intervals that are compared to see which of two places fits better
CALL_STRIKES = 24  # of a passage that is called back are told as such
RETURN_S = 20.0  # so old is what a return goes back to, at least
GAP = 2 * (MAX_MISSES + LOOK_AHEAD)  # strikes that the two sides of a return may be left out of

# Each column of a hint is an id in one table; the last id of a column says that there is nothing to tell.
EVENT = 0  # the event that the old passage goes on with now: N_EVENTS ids, END for nothing
PITCH = EVENT + v.N_EVENTS  # of the next strike
WAIT = PITCH + v.N_PITCHES + 1  # 10 ms steps until then, 0 to 100
LOUDNESS = WAIT + v.MAX_SHIFT_STEPS + 2  # its velocity bin
SECOND = LOUDNESS + v.N_VELOCITY_BINS + 1  # pitch of the strike after it
FOLLOWED = SECOND + v.N_PITCHES + 1  # strikes followed; halved twice by each that was not found
MAX_FOLLOWED = 16
FOLLOWED_LONG = FOLLOWED + MAX_FOLLOWED
AGE = FOLLOWED_LONG + 1  # of the old passage: under 0.5 s, 1 s, 2 s, and so on to 128 s, 256 s, and more
N_AGES, AGE_STEPS = 11, 50
N_HINTS = AGE + N_AGES + 1
CALLED = N_HINTS  # in the place of strikes followed: one more id, of models that can be called back
HINT_COLUMNS = 7

NOTHING = (v.END, WAIT - 1, LOUDNESS - 1, SECOND - 1, FOLLOWED - 1, FOLLOWED, N_HINTS - 1)
_NEVER = 1 << 30
_NO_CALLS: Mapping[int, tuple[int, int]] = {}
_NUMBERS = (
    *("count", "now", "velocity", "last", "struck", "released"),
    *("next", "used", "followed", "missed", "shift", "old", "new", "latest", "called", "end", "may_call"),
)


def memory_bytes(notes: int) -> int:
    """Bytes of a motif memory of so many strikes: three numbers each, two for each key, and the pointer's."""
    return 4 * (3 * notes + 2 * v.N_PITCHES + len(_NUMBERS)) if notes else 0


class MotifMemory:
    """The memory of one stream that comes token by token.

    Args:
        notes: strikes that are remembered; three numbers of four bytes each.
        may_call: whether `CALLED` is told of passages that are called back. Without it they are told as followed long.
    """

    def __init__(self, notes: int, *, may_call: bool = False) -> None:
        self.notes = notes
        self._onsets = array("i", bytes(4 * notes))  # of a strike, in steps
        self._strikes = array("I", bytes(4 * notes))  # its duration in steps << 12 | velocity bin << 7 | pitch
        self._places = array("i", [-1]) * notes  # by the hash of intervals: the strike that they ended with last
        self._sounding = array("i", [-1]) * v.N_PITCHES  # by key: the strike that it sounds from
        self._due: dict[int, int] = {}  # by sounding key: the step in which the old passage lets it go
        self._count = 0  # strikes so far
        self._now = 0  # in steps
        self._velocity = v.DEFAULT_VELOCITY_BIN
        self._last = -1  # the last event
        self._struck = self._released = -1  # the last key struck in this step, and the last let go
        self._next = -1  # the pointer: the first old strike that is still to come; -1 for none
        self._used = 0  # bit d: the old strike at next + d has been followed
        self._followed = self._missed = 0
        self._shift = 0  # semitones from the old passage to this
        self._old = self._new = 0  # when the strike that was followed last was struck then and now
        self._latest = -1  # the old strike that the last one followed; -1 for none
        self._called = 0  # strikes that are still to be told as called back
        self._end = 0  # the old strike before which the passage that was called back ends
        self._may_call = int(may_call)

    @property
    def nbytes(self) -> int:
        return memory_bytes(self.notes)

    def copy(self) -> MotifMemory:
        """A memory of its own that goes on from here."""
        return MotifMemory.from_array(self.to_array())

    def to_array(self) -> NDArray[np.int32]:
        """All of it, (nbytes / 4,)."""
        due = np.full(v.N_PITCHES, -1, np.int32)
        due[list(self._due)] = list(self._due.values())
        numbers = np.array([getattr(self, f"_{name}") for name in _NUMBERS], np.int32)
        strikes = np.frombuffer(self._strikes, np.int32)
        return np.concatenate([numbers, due, self._sounding, self._onsets, strikes, self._places], dtype=np.int32)

    @classmethod
    def from_array(cls, saved: NDArray[np.int32]) -> MotifMemory:
        n, p = len(_NUMBERS), v.N_PITCHES
        memory = cls((len(saved) - n - 2 * p) // 3)
        for name, number in zip(_NUMBERS, saved[:n].tolist()):
            setattr(memory, f"_{name}", number)
        memory._due = {key: step for key, step in enumerate(saved[n : n + p].tolist()) if step >= 0}
        memory._sounding = array("i", saved[n + p : n + 2 * p].tobytes())
        rings = (memory._onsets, memory._strikes, memory._places)
        for ring, part in zip(rings, np.split(saved[n + 2 * p :], len(rings))):
            ring[:] = array(ring.typecode, part.tobytes())
        return memory

    @property
    def followed(self) -> int:
        """Strikes of an old passage that have been followed to now; 0 where none is."""
        return self._followed if self._next >= 0 else 0

    @property
    def called(self) -> int:
        """Strikes of a passage that was called back which are still to be told as such."""
        return self._called

    @property
    def returning(self) -> bool:
        """Whether a passage that was called back is followed and not yet at its end."""
        return 0 <= self._next < self._end

    @property
    def insisted(self) -> int:
        """The event with which a passage that is called back goes on, the key that begins it at first; -1 for none."""
        if not self.returning:
            return -1
        pitch, _, wait, loudness = self._upcoming()
        event = pitch if self._called == CALL_STRIKES else self._event(pitch, wait, loudness)
        return event if event < v.END else -1

    @property
    def may_call(self) -> bool:
        """Whether it tells that a passage was called back."""
        return bool(self._may_call)

    @property
    def last_onset(self) -> int:
        """The step of the last strike; of the piece's start while there is none."""
        return self._onsets[(self._count - 1) % self.notes] if self._count else 0

    def onsets(self) -> tuple[int, NDArray[np.int64]]:
        """The number of the oldest strike that is remembered, and the steps in which it and all later ones were."""
        first = max(0, self._count - self.notes + 1)
        places = np.arange(first, self._count) % self.notes
        return first, np.frombuffer(self._onsets, np.int32)[places].astype(np.int64)

    def call(self, place: int, shift: int = 0, *, strikes: int = CALL_STRIKES) -> None:
        """Sets the pointer to a strike by its number, ``shift`` semitones from how it was played.

        The passage has so many ``strikes`` (see `returning`), but ends where the present one is: it does not run into
        itself.

        Raises:
            ValueError: for a strike that is not remembered.
        """
        if not max(0, self._count - self.notes + 1) <= place < self._count:
            raise ValueError(f"strike {place} is not remembered")
        self._next, self._used, self._followed, self._missed = place, 0, 0, 0
        self._shift, self._called, self._end = shift, CALL_STRIKES, min(place + strikes, self._count)
        self._due.clear()

    def read(self, tokens: ArrayLike, calls: Mapping[int, tuple[int, int]] = _NO_CALLS) -> NDArray[np.int16]:
        """Takes tokens (T,) and gives the hint after each, (T, HINT_COLUMNS).

        With ``calls``, a place and a shift are called behind as many strikes as their key says.
        """
        rows = array("h")
        for token in np.asarray(tokens).tolist():
            self.advance(token)
            if token < v.NOTE_OFF and self._count in calls:
                self.call(*calls[self._count])
            rows.extend(self.hint())
        return np.array(rows, np.int16).reshape(-1, HINT_COLUMNS)

    def advance(self, token: int) -> None:
        """Takes one event, legal or not. Specials change nothing."""
        if not 0 <= token < v.END:
            return
        if token < v.NOTE_OFF:
            self._strike(token)
        elif token < v.SHIFT:
            self._release(token - v.NOTE_OFF)
        elif token < v.VELOCITY:
            self._now += token - v.SHIFT + 1
            self._struck = self._released = -1
        else:
            self._velocity = token - v.VELOCITY
        self._last = token

    def hint(self) -> tuple[int, ...]:
        """What the old passage goes on with: an id for every column."""
        if self._next < 0 and not self._due:
            return NOTHING
        pitch, second, wait, loudness = self._upcoming()
        begins = self._called == CALL_STRIKES  # and when that is to be is not known
        event = EVENT + (self._event(-1, _NEVER, 0) if begins else self._event(pitch, wait, loudness))
        if pitch < 0:
            return event, *NOTHING[1:]
        age = (self._now - self._onsets[self._next % self.notes]) // AGE_STEPS
        followed = FOLLOWED_LONG if self._called else FOLLOWED + min(self._followed, MAX_FOLLOWED)
        return (
            event,
            PITCH + pitch,
            NOTHING[2] if begins else WAIT + min(wait, v.MAX_SHIFT_STEPS),
            LOUDNESS + loudness,
            SECOND + second,
            CALLED if self._called and self._may_call else followed,
            AGE + min(age.bit_length(), N_AGES - 1),
        )

    def _strike(self, pitch: int) -> None:
        n = self._count
        self._count += 1
        self._onsets[n % self.notes] = self._now
        self._strikes[n % self.notes] = self._velocity << 7 | pitch
        self._sounding[pitch] = n
        self._struck = pitch
        old = self._find(pitch)
        place = self._place(n)
        if self._called:
            place = -1
        if place >= 0 and (self._next < 0 or (place + 1 != self._next and self._match(place, n) > self._followed)):
            old = place
            self._next, self._used, self._missed, self._end = place + 1, 0, 0, 0
            self._followed, self._shift = self._match(place, n), pitch - self._pitch(place)
        self._due.pop(pitch, None)
        self._latest = old
        if old >= 0:
            self._old, self._new = self._onsets[old % self.notes], self._now
            duration = self._strikes[old % self.notes] >> 12
            if duration:
                self._due[pitch] = self._now + duration

    def _release(self, pitch: int) -> None:
        n = self._sounding[pitch]
        self._sounding[pitch], self._released = -1, pitch
        self._due.pop(pitch, None)
        if n > self._count - self.notes and n >= 0:
            duration = max(1, min(self._now - self._onsets[n % self.notes], (1 << 20) - 1))
            self._strikes[n % self.notes] |= duration << 12

    def _find(self, pitch: int) -> int:
        """The old strike that a new one follows, and the pointer moved on; -1 for none."""
        if self._next >= 0 and self._next <= self._count - self.notes:
            self._next, self._called, self._end = -1, 0, 0  # forgotten
        if self._next < 0:
            return -1
        for d in range(min(LOOK_AHEAD, self._count - 1 - self._next)):
            old = self._next + d
            if not self._used >> d & 1 and self._pitch(old) + self._shift == pitch:
                self._used |= 1 << d
                self._followed, self._missed = self._followed + 1, 0
                self._called = max(0, self._called - 1)
                left_out = self._onsets[old % self.notes] - LATE_STEPS
                while self._used & 1 or (self._used and self._onsets[self._next % self.notes] < left_out):
                    self._used >>= 1
                    self._next += 1
                return old
        self._followed, self._missed = self._followed >> 2, self._missed + 1
        if self._missed > MAX_MISSES:
            self._next, self._called, self._end = -1, 0, 0
        return -1

    def _place(self, n: int) -> int:
        """The strike before n whose last intervals were those of n, -1 for none; n takes its place."""
        if n < INTERVALS:
            return -1
        a, b, c, d = self._pitch(n - 3), self._pitch(n - 2), self._pitch(n - 1), self._pitch(n)
        slot = ((b - a) * 16_633 + (c - b) * 257 + (d - c)) % self.notes
        place, self._places[slot] = self._places[slot], n
        if place - INTERVALS <= n - self.notes or place < INTERVALS:
            return -1
        e, f, g, h = self._pitch(place - 3), self._pitch(place - 2), self._pitch(place - 1), self._pitch(place)
        return place if a - e == b - f == c - g == d - h else -1

    def _match(self, place: int, n: int) -> int:
        """How many intervals before two strikes are alike, `MAX_MATCH` at most."""
        shift, oldest = self._pitch(n) - self._pitch(place), max(0, n - self.notes + 1)
        for length in range(1, MAX_MATCH + 1):
            if place - length < oldest or self._pitch(n - length) - self._pitch(place - length) != shift:
                return length - 1
        return MAX_MATCH

    def _pitch(self, n: int) -> int:
        return self._strikes[n % self.notes] & 127

    def _upcoming(self) -> tuple[int, int, int, int]:
        """Pitch of the old passage's next strike (-1 for none) and of the one after it, steps until then, velocity."""
        at = self._next
        if at < 0 or at >= self._count or at <= self._count - self.notes:
            return -1, v.N_PITCHES, _NEVER, 0
        strike = self._strikes[at % self.notes]
        pitch = (strike & 127) + self._shift
        if not 0 <= pitch < v.N_PITCHES:
            return -1, v.N_PITCHES, _NEVER, 0
        second = v.N_PITCHES
        for d in range(1, LOOK_AHEAD):
            if at + d < self._count and not self._used >> d & 1:
                later = self._pitch(at + d) + self._shift
                second = later if 0 <= later < v.N_PITCHES else v.N_PITCHES
                break
        wait = self._new + self._onsets[at % self.notes] - self._old - self._now
        return pitch, second, wait if wait > 0 else 0, strike >> 7 & 31

    def _event(self, pitch: int, wait: int, loudness: int) -> int:
        """What comes first of the next strike and the releases that are due, as an event that the grammar allows."""
        barred = v.N_PITCHES if self._struck >= 0 else self._released  # keys up to it are not let go in this step
        first, key, now = _NEVER, -1, self._now
        for due, step in self._due.items():
            steps = step - now if step > now else int(due <= barred)
            if steps < first or (steps == first and due < key):
                first, key = steps, due
        if pitch >= 0:
            if self._sounding[pitch] >= 0:  # let go before it is struck again
                first, key = min((first, key), (max(wait, int(pitch <= barred)), pitch))
                wait = _NEVER
            elif pitch <= self._struck:
                wait = max(wait, 1)
        if self._last >= v.VELOCITY:
            return pitch if wait < _NEVER and pitch > self._struck else v.END
        soonest = wait if wait < first else first
        if soonest == _NEVER:
            return v.END
        if soonest and not v.SHIFT <= self._last < v.VELOCITY - 1:
            return v.SHIFT + min(soonest, v.MAX_SHIFT_STEPS) - 1
        if first <= wait:
            return v.NOTE_OFF + key
        return pitch if loudness == self._velocity else v.VELOCITY + loudness


def hints(tokens: ArrayLike, *, notes: int, calls: Mapping[int, tuple[int, int]] | None = None) -> NDArray[np.int16]:
    """The hints of a stream read from its start, (T, HINT_COLUMNS): as in `contexts`, row i has seen ``tokens[:i]``.

    With ``calls``, places of it are called back: see `MotifMemory.read` and `returns`.
    """
    tokens = np.asarray(tokens)
    memory = MotifMemory(notes, may_call=calls is not None)
    return memory.read(np.concatenate([[v.START], tokens[:-1]]) if len(tokens) else tokens, calls or _NO_CALLS)


def returns(tokens: ArrayLike, *, notes: int) -> dict[int, tuple[int, int]]:
    """Where a piece (T,) goes back to what was played `RETURN_S` before, or more, for `CALL_STRIKES` strikes at least.

    By the number of strikes before each return: that of the old passage's first strike, and the semitones from there.
    """
    memory, tokens = MotifMemory(notes), np.asarray(tokens)
    shifts = (tokens >= v.SHIFT) & (tokens < v.VELOCITY)
    onset: list[int] = []  # of every strike
    passages: list[list[int]] = []  # the first strike and the old one that it is like, shift, strikes; the last and its
    for token in tokens[(tokens < v.NOTE_OFF) | shifts].tolist():  # how long and loud keys are makes no difference
        memory.advance(token)
        if token >= v.NOTE_OFF:
            continue
        n, old, shift = len(onset), memory._latest, memory._shift
        onset.append(memory._now)
        if old < 0:
            continue
        last = passages[-1] if passages else None
        if last and last[2] == shift and n - last[4] <= GAP and abs(old - last[5]) <= GAP:
            last[3:] = last[3] + 1, n, old
        else:
            before = memory._match(old, n)
            passages.append([n - before, old - before, shift, before + 1, n, old])
    return {
        n: (old, shift)
        for n, old, shift, strikes, _, _ in passages
        if strikes >= CALL_STRIKES and onset[n] - onset[old] >= RETURN_S * v.STEPS_PER_S and n > 0
    }


def with_hints(
    tokens: NDArray[np.integer], hints: NDArray[np.integer] | None, labels: NDArray[np.integer] | None = None
) -> NDArray[np.int64]:
    """Tokens (..., T) as rows of ids (..., T, 1 + columns): each, the hints after it and the labels told with it."""
    columns = [more.astype(np.int64) for more in (hints, labels) if more is not None]
    rows = tokens.astype(np.int64)
    return np.concatenate([rows[..., None], *columns], axis=-1) if columns else rows
