"""Which events may come next: a pure function of the tokens so far.

The rules, with "step" for one 10 ms step of time:

- a key is released only while it sounds, and struck only while it is silent;
- within a step releases come before strikes, each in ascending pitch;
- a velocity differs from the current one and is followed by a strike; no strike before the first velocity;
- after a shift shorter than one second there is no further shift;
- END only when no key sounds, and not behind a shift: a piece ends with its last release; START and PAD never.

What the rules need to know of the past is a `Context`. `contexts` computes it for a whole sequence at once, `Grammar`
keeps it while tokens come one by one, and `legal_events` is the rules themselves, once, for NumPy arrays and torch
tensors alike. Axes: T tokens, V = N_EVENTS events.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello.codec import vocabulary as v

NO_VELOCITY = -1


class Context(NamedTuple):
    """What the next event's legality depends on; every field has the same leading axes (written ``...``)."""

    sounding: Any  # (..., 128) bool: keys struck and not yet released
    floor_on: Any  # (...,) int16: only pitches above it may be struck now
    floor_off: Any  # (...,) int16: only pitches above it may be released now
    velocity: Any  # (...,) int16: the current bin, or NO_VELOCITY before the first
    after_velocity: Any  # (...,) bool: the last event was a velocity
    may_shift: Any  # (...,) bool: the last event was not a shift shorter than one second
    may_end: Any  # (...,) bool: the last event was no shift


def legal_events(context: Context, xp: Any = np) -> Any:
    """(..., V) bool: which events may come next. ``xp`` is the module of the arrays: numpy or torch."""
    device = context.sounding.device
    pitches = xp.arange(v.N_PITCHES, device=device)
    bins = xp.arange(v.N_VELOCITY_BINS, device=device)
    free = ~context.after_velocity[..., None]
    strikable = ~context.sounding & (pitches > context.floor_on[..., None])
    strikes = strikable & (context.velocity[..., None] != NO_VELOCITY)
    releases = context.sounding & (pitches > context.floor_off[..., None]) & free
    shifts = xp.broadcast_to(context.may_shift[..., None] & free, (*free.shape[:-1], v.MAX_SHIFT_STEPS))
    velocities = (bins != context.velocity[..., None]) & strikable.any(-1)[..., None] & free
    end = ~context.sounding.any(-1)[..., None] & context.may_end[..., None] & free
    return xp.concatenate([strikes, releases, shifts, velocities, end], -1)


def contexts(tokens: ArrayLike) -> Context:
    """The contexts of a stream read from its start: row i has seen ``tokens[:i]``. (T,) tokens give T rows.

    Specials and unknown integers change nothing; illegal events are taken as the decoder takes them.
    """
    tokens = np.asarray(tokens).astype(np.int64).reshape(-1)
    n = len(tokens)
    is_note = (tokens >= 0) & (tokens < v.SHIFT)
    is_on = is_note & (tokens < v.NOTE_OFF)
    is_shift = (tokens >= v.SHIFT) & (tokens < v.VELOCITY)
    is_velocity = (tokens >= v.VELOCITY) & (tokens < v.END)

    # A sentinel stands before the stream, so that "none so far" has an index too.
    padded = np.r_[v.SHIFT + v.MAX_SHIFT_STEPS - 1, tokens]
    in_step = padded[_last(is_note | is_shift)]
    floor_on = np.where(in_step < v.NOTE_OFF, in_step, -1)
    floor_off = np.where(in_step < v.NOTE_OFF, v.N_PITCHES, np.where(in_step < v.SHIFT, in_step - v.NOTE_OFF, -1))
    last_velocity = _last(is_velocity)
    velocity = np.where(last_velocity > 0, padded[last_velocity] - v.VELOCITY, NO_VELOCITY)
    last = _last(is_note | is_shift | is_velocity)
    previous = padded[last]
    short = (previous >= v.SHIFT) & (previous < v.SHIFT + v.MAX_SHIFT_STEPS - 1)
    return Context(
        sounding=_sounding(tokens, is_note, is_on, n),
        floor_on=floor_on.astype(np.int16),
        floor_off=floor_off.astype(np.int16),
        velocity=velocity.astype(np.int16),
        after_velocity=(previous >= v.VELOCITY) & (previous < v.END),
        may_shift=~short,
        may_end=(last == 0) | (previous < v.SHIFT) | (previous >= v.VELOCITY),
    )


class Grammar:
    """The context of a stream that comes token by token.

    >>> grammar = Grammar()
    >>> bool(grammar.legal()[60])  # no velocity yet
    False
    >>> grammar.advance(371)
    >>> bool(grammar.legal()[60])
    True
    """

    def __init__(self) -> None:
        self._sounding = np.zeros(v.N_PITCHES, bool)
        self._floor_on = -1
        self._floor_off = -1
        self._velocity = NO_VELOCITY
        self._after_velocity = False
        self._may_shift = self._may_end = True

    @property
    def sounding(self) -> NDArray[np.bool_]:
        """(128,) the keys that sound now; a copy."""
        return self._sounding.copy()

    def to_array(self) -> NDArray[np.int16]:
        """All that it remembers, (134,)."""
        flags = (self._after_velocity, self._may_shift, self._may_end)
        numbers = np.array([self._floor_on, self._floor_off, self._velocity, *flags], np.int16)
        return np.concatenate([numbers, self._sounding], dtype=np.int16)

    @classmethod
    def from_array(cls, saved: NDArray[np.int16]) -> Grammar:
        grammar = cls()
        grammar._floor_on, grammar._floor_off, grammar._velocity, *flags = saved[:6].tolist()
        grammar._after_velocity, grammar._may_shift, grammar._may_end = map(bool, flags)
        grammar._sounding = saved[6:].astype(bool)
        return grammar

    def legal(self) -> NDArray[np.bool_]:
        """(V,) which events may come next; never all False if every event so far was legal."""
        return legal_events(
            Context(
                self._sounding,
                np.array(self._floor_on),
                np.array(self._floor_off),
                np.array(self._velocity),
                np.array(self._after_velocity),
                np.array(self._may_shift),
                np.array(self._may_end),
            )
        )

    def advance(self, token: int) -> None:
        """Takes one event, legal or not."""
        if not 0 <= token < v.END:
            return
        self._after_velocity = token >= v.VELOCITY
        self._may_shift = not v.SHIFT <= token < v.SHIFT + v.MAX_SHIFT_STEPS - 1
        self._may_end = not v.SHIFT <= token < v.VELOCITY
        if token < v.NOTE_OFF:
            self._sounding[token] = True
            self._floor_on, self._floor_off = token, v.N_PITCHES
        elif token < v.SHIFT:
            self._sounding[token - v.NOTE_OFF] = False
            self._floor_on, self._floor_off = -1, token - v.NOTE_OFF
        elif token < v.VELOCITY:
            self._floor_on, self._floor_off = -1, -1
        else:
            self._velocity = token - v.VELOCITY


def _last(flags: NDArray[np.bool_]) -> NDArray[np.int64]:
    """(T,) at row i the 1-based index of the last flag among the first i; 0 where there is none."""
    index = np.maximum.accumulate(np.where(flags, np.arange(1, len(flags) + 1), 0))
    return np.r_[0, index][: len(flags)]


def _sounding(
    tokens: NDArray[np.int64], is_note: NDArray[np.bool_], is_on: NDArray[np.bool_], n: int
) -> NDArray[np.bool_]:
    """(T, 128) keys down before each token: changes of each key are scattered over time, then summed."""
    event = np.flatnonzero(is_note)
    pitch = tokens[event] % v.N_PITCHES
    order = np.argsort(pitch, kind="stable")
    event, pitch = event[order], pitch[order]
    after = is_on[event].astype(np.int8)
    before = np.zeros_like(after)
    if len(event) > 1:
        before[1:] = np.where(pitch[1:] == pitch[:-1], after[:-1], 0)
    change = np.zeros((n + 1, v.N_PITCHES), np.int8)
    change[event + 1, pitch] = after - before
    return np.cumsum(change[:n], axis=0, dtype=np.int8).astype(bool)
