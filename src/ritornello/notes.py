"""A performance as notes: sorted arrays of onset, offset, pitch and velocity, and the sustain pedal's spans.

Conventions: times in seconds (float64), pitches 0-127 (MIDI), velocities 1-127, N notes, P pedal spans.
A pedal span is half open: [down, up). No torch, no MIDI here: files are read and written in ``midi``.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

if TYPE_CHECKING:
    from pathlib import Path

Seconds = NDArray[np.float64]
MAX_SECONDS = 1e6  # eleven days: beyond any performance, and far below where 10 ms steps lose exactness
PEDAL_LAG_S = 0.08
"""how long after a strike or a lift a foot presses the pedal (`Piece.with_pedal`)"""
SHORTEST_S = 0.1
"""of a pedal span, and before a key held by the pedal is let go"""


@dataclass(frozen=True, eq=False)
class Piece:
    """One performance. Built from arrays in any order; kept sorted by onset, then pitch, then offset.

    Args:
        onset: (N,) strike times in seconds, not negative.
        offset: (N,) times at which the key is let go, in seconds, not before the onset. Pedal not applied.
        pitch: (N,) MIDI pitches, 0-127.
        velocity: (N,) MIDI velocities, 1-127.
        pedals: (P, 2) sustain-pedal spans [down, up) in seconds; overlapping ones are merged.
        title: free text, written to and read from MIDI files.
        mended: (what, how many) of all that a reader mended or left out; empty if the file was as it should be.

    Raises:
        ValueError: if shapes differ or a value is outside the limits above.
    """

    onset: Seconds
    offset: Seconds
    pitch: NDArray[np.integer]
    velocity: NDArray[np.integer]
    pedals: Seconds = field(default_factory=lambda: np.zeros((0, 2)))
    title: str = ""
    mended: tuple[tuple[str, int], ...] = ()

    def __post_init__(self) -> None:
        onset = np.asarray(self.onset, np.float64).reshape(-1)
        offset = np.asarray(self.offset, np.float64).reshape(-1)
        pitch = np.asarray(self.pitch).reshape(-1)
        velocity = np.asarray(self.velocity).reshape(-1)
        pedals = np.asarray(self.pedals, np.float64).reshape(-1, 2)
        if not len(onset) == len(offset) == len(pitch) == len(velocity):
            lengths = f"{len(onset)}, {len(offset)}, {len(pitch)}, {len(velocity)}"
            raise ValueError(f"onset, offset, pitch and velocity differ in length: {lengths}")
        _check("onset", onset, 0, MAX_SECONDS)
        _check("offset", offset, 0, MAX_SECONDS)
        _check("pitch", pitch, 0, 127)
        _check("velocity", velocity, 1, 127)
        _check("pedals", pedals, 0, MAX_SECONDS)
        for name, values in (("pitch", pitch), ("velocity", velocity)):
            if not np.issubdtype(values.dtype, np.integer):
                _check_whole(name, values)
        if np.any(pedals[:, 1] < pedals[:, 0]):
            down, up = pedals[pedals[:, 1] < pedals[:, 0]][0]
            raise ValueError(f"a pedal span ends at {up} s, before it begins at {down} s")
        if np.any(offset < onset):
            first = int(np.argmax(offset < onset))
            raise ValueError(f"note {first} ends at {offset[first]} s, before its onset at {onset[first]} s")
        order = _order(onset, pitch, offset)
        object.__setattr__(self, "onset", onset[order])
        object.__setattr__(self, "offset", offset[order])
        object.__setattr__(self, "pitch", pitch[order].astype(np.uint8))
        object.__setattr__(self, "velocity", velocity[order].astype(np.uint8))
        object.__setattr__(self, "pedals", _merged(pedals))

    @classmethod
    def from_notes(cls, notes: Iterable[tuple[float, float, int, int]], **rest: Any) -> Piece:
        """A piece from (onset, offset, pitch, velocity) rows in any order; ``rest`` goes to the constructor."""
        rows = np.array(list(notes), np.float64).reshape(-1, 4)
        return cls(rows[:, 0], rows[:, 1], rows[:, 2].astype(int), rows[:, 3].astype(int), **rest)

    def __len__(self) -> int:
        return len(self.onset)

    @property
    def seconds(self) -> float:
        """From time 0 to the last release (pedal not applied); 0.0 for a piece without notes."""
        return float(self.offset.max()) if len(self) else 0.0

    def sounding_offset(self) -> Seconds:
        """(N,) when each note falls silent: let go by key and pedal, or struck again, whichever ends it.

        A note whose key is let go inside a pedal span [down, up) sounds until ``up``. Every note ends at the next
        onset of its pitch at the latest: one key, one string. Notes struck at the very same time do not end
        each other. The rule of ``note_seq.apply_sustain_control_changes`` for one piano with one pedal, except at exact
        ties: there a release at the moment of pedal-up may hang until a later one.
        """
        offset = self.offset.copy()
        if len(self.pedals):
            span = np.searchsorted(self.pedals[:, 0], offset, side="right") - 1
            up = self.pedals[span, 1]
            offset = np.where((span >= 0) & (offset < up), up, offset)
        return np.minimum(offset, self._struck_again())

    def _struck_again(self) -> Seconds:
        """(N,) the next later onset of each note's pitch; infinite for the last."""
        again = np.full(len(self), np.inf)
        if len(self) < 2:
            return again
        order = np.lexsort((self.onset, self.pitch))
        onset, pitch = self.onset[order], self.pitch[order]
        begins = np.r_[True, (onset[1:] != onset[:-1]) | (pitch[1:] != pitch[:-1])]
        strike = np.cumsum(begins) - 1  # notes of one key at one time are one strike
        first = np.flatnonzero(begins)
        following = np.r_[first[1:], len(order) - 1][strike]
        later = (pitch[following] == pitch) & (strike < strike[-1])
        again[order] = np.where(later, onset[following], np.inf)
        return again

    def without_pedal(self) -> Piece:
        """The same music with the pedal turned into note lengths (see `sounding_offset`)."""
        return Piece(self.onset, self.sounding_offset(), self.pitch, self.velocity, title=self.title)

    def with_pedal(self, since_s: float = 0.0) -> Piece:
        """The same music with what only a pedal holds as pedal spans: the way back from `without_pedal`.

        Several notes that fall silent at once were let go by a pedal, which went down soon after the lift before; their
        keys are let go at the next strike. A span holds no other note's end, so `sounding_offset` stays what it was,
        and `codec.encode` gives the same tokens.

        Args:
            since_s: what sounds until then, and notes struck before, stay as they were played.
        """
        silent, new = self.sounding_offset(), self.onset >= since_s
        freely = (silent < self._struck_again()) & (silent > since_s)
        lifts, ending = np.unique(silent[freely], return_inverse=True)
        # What sounds towards a lift, or towards a later one, began then or earlier.
        begun = np.full(len(lifts), np.inf)
        np.minimum.at(begun, ending, self.onset[freely])
        begun = np.minimum.accumulate(begun[::-1])[::-1]
        downs = np.maximum(np.maximum(begun, since_s), np.r_[0.0, lifts[:-1]]) + PEDAL_LAG_S
        pedalled = (np.bincount(ending, minlength=len(lifts)) > 1) & (lifts - downs >= SHORTEST_S)
        downs, lifts = downs[pedalled], lifts[pedalled]

        offset = np.where(new | (silent > since_s), silent, self.offset)
        if len(lifts):
            span = np.minimum(np.searchsorted(lifts, silent), len(lifts) - 1)
            held = freely & new & (lifts[span] == silent)
            following = np.searchsorted(self.onset, self.onset[held] + SHORTEST_S)
            strike = np.append(self.onset, np.inf)[following]
            offset[held] = np.minimum(np.maximum(strike, downs[span[held]]), silent[held])
        pedals = np.concatenate([self.pedals[self.pedals[:, 0] < since_s], np.stack([downs, lifts], axis=1)])
        return Piece(self.onset, offset, self.pitch, self.velocity, pedals, self.title)

    def transposed(self, semitones: int) -> Piece:
        """Every pitch moved by ``semitones``. Raises ValueError if one would leave 0-127."""
        pitch = self.pitch.astype(int) + semitones
        return Piece(self.onset, self.offset, pitch, self.velocity, self.pedals, self.title)

    def stretched(self, factor: float) -> Piece:
        """Every time multiplied by ``factor`` (2.0 is half as fast). Raises ValueError unless it is positive."""
        if not factor > 0:
            raise ValueError(f"a piece is stretched by a positive factor, not {factor}")
        return Piece(
            self.onset * factor, self.offset * factor, self.pitch, self.velocity, self.pedals * factor, self.title
        )

    def write(self, path: str | Path) -> None:
        """Writes a MIDI file (see `ritornello.midi.write_midi`)."""
        from ritornello.midi import write_midi

        write_midi(self, path)


def _order(onset: Seconds, pitch: NDArray[Any], offset: Seconds) -> NDArray[np.int64]:
    """(N,) the order by onset, then pitch, then offset; found at once where it is there already."""
    in_order = offset[1:] >= offset[:-1]
    for values in (pitch, onset):
        in_order = (values[1:] > values[:-1]) | ((values[1:] == values[:-1]) & in_order)
    return np.arange(len(onset)) if in_order.all() else np.lexsort((offset, pitch, onset))


def _check(name: str, values: ArrayLike, low: float, high: float) -> None:
    values = np.asarray(values)
    if values.size and not (values.min() >= low and values.max() <= high):  # NaN is bad too
        bad = ~((values >= low) & (values <= high))
        raise ValueError(f"{name} holds {values[bad][0]}; it must lie between {low:g} and {high:g}")


def _check_whole(name: str, values: NDArray[Any]) -> None:
    bad = values % 1 != 0
    if np.any(bad):
        raise ValueError(f"{name} holds {values[bad][0]}; it must be a whole number")


def _merged(pedals: Seconds) -> Seconds:
    """(P, 2) spans sorted, empty ones dropped, overlapping ones joined (spans that only touch stay apart)."""
    pedals = pedals[np.flatnonzero(pedals[:, 1] > pedals[:, 0])]
    if np.all(pedals[1:, 0] >= pedals[:-1, 1]):
        return pedals
    pedals = pedals[np.argsort(pedals[:, 0], kind="stable")]
    reach = np.maximum.accumulate(pedals[:, 1])
    begins = np.append(True, pedals[1:, 0] >= reach[:-1])
    ends = np.append(begins[1:], True)
    return np.stack([pedals[begins, 0], reach[ends]], axis=1)
