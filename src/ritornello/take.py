"""A performance in the making, event by event: what a live player and a studio hold.

A take is forked and saved at any moment, so that a passage can be played anew from there.
"""

from __future__ import annotations

import copy
import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello import codec
from ritornello.codec import steering
from ritornello.codec.vocabulary import MAX_SHIFT_STEPS, N_PITCHES, STEPS_PER_S
from ritornello.engines import Engine, Saved, Session
from ritornello.errors import RitornelloError
from ritornello.notes import MAX_SECONDS
from ritornello.sampling import Sampling

BREATH_S, BREATH_QUANTILE, BREATH_ONSETS = 0.1, 0.95, 256
"""a phrase ends where no key is struck for so long, and for longer than that share of the last moments of strikes"""
OLD_S = 30.0
"""a passage that is called back is so old, or older: what is nearer the model repeats by itself, as people do"""
RETURN_STRIKES, LONGER_STRIKES = 24, 40.0
"""a passage that returns has that many strikes at least, and so many more in the mean: half of them have 51 and more,
of people's 48 (those of 20 s ago and more, in ASAP's training split)"""
INSIST_NATS = 5.0
"""by how much each event of what is called back is likelier than the model says, while it is told as called back: it is
led there from music that it has just made up, and not from what a pianist led to the return"""
MAX_GUIDANCE = 10.0
RESTRIKE_S, MOST_STRIKES = 0.06, 52
"""so soon no key is struck again, and so many strikes a second are the most: 0.03 % of the strikes on a key, and 0.1 %
of the seconds before strikes, are beyond in ASAP's training performances (200 of them)"""
OPENING_S, REST_S, HELD_S = 8.0, 4.5, 9.0
"""how long nothing may happen before the first note, while no key sounds and while one does: what ASAP's training
performances hold: 99 % begin within 8.4 s, have no rest above 4.6 s, and no wait between strikes above 9.0 s"""
LONGEST_S = 38.0
"""so long a key is held at most: 99 % of ASAP's training performances hold none for more than 38.1 s"""


class KeyEvent(NamedTuple):
    """A key struck, or released where the velocity is 0 as in MIDI."""

    time_s: float
    pitch: int
    velocity: int


class Event(NamedTuple):
    """What a model chose."""

    token: int
    key: KeyEvent | None
    """the key that it strikes or releases, if it does"""
    finished: list[codec.Note]
    """notes that it ends: one if it releases a key"""


class Take:
    """One performance in the making, at one moment: an engine's session, the grammar, and the notes that sound.

    It has no clock, no thread and no random numbers of its own: whoever plays decides when the next event is drawn, how
    (the sampling may be another for every event) and with which generator. The same draws give the same tokens.

    >>> performer = ritornello.load("base")                             # doctest: +SKIP
    >>> take, rng = performer.begin(), np.random.default_rng(7)
    >>> take.hear(codec.encode(what_was_played)[:-1])                   # a prompt, at any moment; see `hear`
    >>> before = take.fork()                                            # to come back to: undo, or another candidate
    >>> event = take.play(Sampling(temperature=0.9), rng)               # then again, with any sampling
    >>> np.savez("moment.npz", **take.save())                           # a value: named arrays
    >>> again = performer.resume(np.load("moment.npz"))                 # goes on as ``take`` would

    To keep a generator with it, save ``rng.bit_generator.state``, which is JSON-able. A take of the bundled model
    takes 14 MB, and a fork as much. Times are seconds from the piece's start, the prompt included.
    """

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._session = engine.begin()
        self._untold: Session | None = None  # reads the same and is told nothing, where what is told is to weigh more
        self._guidance = 1.0
        self._grammar = codec.Grammar()
        self._decoder = codec.StreamDecoder()
        self._unread = [codec.START]  # drawn and not yet read: what follows the end is never asked for
        self._logits = np.zeros(0, np.float32)
        self._key_step = 0  # of the last strike or release
        self._struck_steps = np.full(N_PITCHES, -MAX_SHIFT_STEPS)  # by key, when it was struck last
        self._strike_steps = np.full(MOST_STRIKES, -MAX_SHIFT_STEPS)  # when the last strikes were, in a ring
        self._strikes = 0
        self._breath_step = 0  # where a phrase ended last
        self._silent_until = 0  # the step before which nothing more happens: where a prompt was cut
        self._has_notes = False

    @property
    def seconds(self) -> float:
        """The time that the music has reached."""
        return self._decoder.seconds

    @property
    def ended(self) -> bool:
        """Whether the model has ended the piece. Nothing can be played or heard then."""
        return self._decoder.ended

    @property
    def sounding(self) -> NDArray[np.bool_]:
        """(128,) the keys that sound now; a copy."""
        return self._grammar.sounding

    @property
    def velocity(self) -> int:
        """The MIDI velocity that the next strike has, unless it is changed."""
        return self._decoder.velocity

    def hear(self, tokens: ArrayLike, *, until_s: float = 0.0) -> list[codec.Note]:
        """Takes events (T,) that others played, without END, and gives the notes that they end.

        Nothing that the model plays then lies before ``until_s``: it is as if the silence up to there was heard too.
        """
        finished = []
        for token in np.asarray(tokens, np.int64).tolist():
            finished += self._take(token)
        self._read()
        self._silent_until = to_steps(until_s)
        return finished

    def play(self, sampling: Sampling, rng: np.random.Generator, *, may_end: bool = True) -> Event:
        """The next event, drawn with one number of ``rng``; no END before there is a note, nor without ``may_end``.

        Rests are no longer than `OPENING_S`, `REST_S` and `HELD_S`, and, if `Sampling.playable`, no piece is shorter
        than those that the model learnt from, and keys are struck no faster than hands do (`RESTRIKE_S`,
        `MOST_STRIKES`) and held no longer than `LONGEST_S`, whatever the model would rather.

        A model that can be called back (`recalls`) is, where a phrase ends, as often as `Sampling.returns` says: to
        the beginning of a phrase `OLD_S` old or older. Three more numbers of ``rng`` decide that.
        """
        if self.ended:
            raise ValueError("this take has ended; begin another")
        self._read()
        token = sampling.draw(self._weighed(), self._legal(may_end, sampling.playable), rng)
        velocity = self._decoder.velocity
        finished = self._take(token)
        if token >= codec.SHIFT:
            if token < codec.VELOCITY and sampling.returns:
                self._lead_back(token - codec.SHIFT + 1, sampling.returns, rng)
            return Event(token, None, finished)
        return Event(
            token, KeyEvent(self.seconds, token % N_PITCHES, velocity if token < codec.NOTE_OFF else 0), finished
        )

    def tell(self, told: Mapping[str, float], *, guidance: float = 1.0) -> None:
        """Says what the music is to be from here on: labels of the engine's and their weights (`codec.steering`).

        With ``guidance`` g the logits are (1 - g) x those of being told nothing + g x those of being told (J. Ho,
        T. Salimans, arXiv 2207.12598): above 1 what is told weighs more, at twice the cost of a token.

        Raises:
            RitornelloError: for a label that the engine does not know, or a guidance that is none.
        """
        if not 0 <= guidance <= MAX_GUIDANCE:
            raise RitornelloError(f"guidance is {guidance}; it must lie between 0 and {MAX_GUIDANCE:g}")
        weights = steering.weights(self._engine.labels, told)
        if guidance == 1 or not weights.any():
            self._untold = None
        elif self._untold is None:
            self._untold = self._session.fork()
            self._untold.tell(np.zeros_like(weights))
        self._guidance = guidance
        self._session.tell(weights)

    def recall(self, from_s: float) -> None:
        """Calls back what was played from ``from_s`` on: it is what the music is to go on with.

        Raises:
            RitornelloError: for a model that cannot be called back, or where nothing is remembered.
        """
        motifs = self._session.motifs
        if motifs is None or not motifs.may_call:
            raise RitornelloError("this model cannot be called back to a passage; take one that was trained for it")
        first, onsets = motifs.onsets()
        place = int(np.searchsorted(onsets, to_steps(from_s)))
        if place >= len(onsets):
            raise RitornelloError(f"nothing was played from {from_s:g} s on that could be called back")
        self._call(first + place, RETURN_STRIKES + round(LONGER_STRIKES))

    def finish(self) -> list[codec.Note]:
        """Ends it here: the notes that still sound, closed now."""
        return self._decoder.finish()

    def fork(self) -> Take:
        """Another take at the same moment. What becomes of one of them never changes the other."""
        twin = copy.copy(self)
        twin._session, twin._untold = self._session.fork(), self._untold and self._untold.fork()
        twin._grammar, twin._decoder = copy.deepcopy(self._grammar), copy.deepcopy(self._decoder)
        twin._unread = list(self._unread)
        twin._struck_steps, twin._strike_steps = self._struck_steps.copy(), self._strike_steps.copy()
        return twin

    def save(self) -> Saved:
        """This moment as named arrays, for `Performer.resume`: a value that later events do not change."""
        untold = {f"untold/{name}": value for name, value in (self._untold.save() if self._untold else {}).items()}
        return (
            self._session.save()
            | untold
            | {
                "guidance": np.array(self._guidance),
                "grammar": self._grammar.to_array(),
                "decoder": self._decoder.to_array(),
                "unread": np.array(self._unread, np.int64),
                "logits": self._logits.copy(),
                "struck": self._struck_steps.copy(),
                "strikes": self._strike_steps.copy(),
                "moment": np.array(
                    [self._key_step, self._breath_step, self._silent_until, self._strikes, self._has_notes]
                ),
            }
        )

    @classmethod
    def resume(cls, engine: Engine, saved: Mapping[str, NDArray[Any]]) -> Take:
        """The take that was saved. Raises RitornelloError as `Engine.resume` does."""
        take = cls.__new__(cls)
        take._engine, take._session, take._guidance = engine, engine.resume(saved), float(saved["guidance"])
        untold = {name.removeprefix("untold/"): saved[name] for name in saved if name.startswith("untold/")}
        take._untold = engine.resume(untold) if untold else None
        take._grammar = codec.Grammar.from_array(saved["grammar"])
        take._decoder = codec.StreamDecoder.from_array(saved["decoder"])
        take._unread, take._logits = saved["unread"].tolist(), saved["logits"].copy()
        take._struck_steps, take._strike_steps = saved["struck"].copy(), saved["strikes"].copy()
        take._key_step, take._breath_step, take._silent_until, take._strikes, has_notes = saved["moment"].tolist()
        take._has_notes = bool(has_notes)
        return take

    def _take(self, token: int) -> list[codec.Note]:
        self._unread.append(token)
        self._grammar.advance(token)
        finished = self._decoder.feed(token)
        if token < codec.SHIFT:
            self._key_step = self._decoder.step
        if token < codec.NOTE_OFF:
            self._has_notes = True
            self._struck_steps[token] = self._strike_steps[self._strikes % MOST_STRIKES] = self._key_step
            self._strikes += 1
        return finished

    def _lead_back(self, steps: int, per_minute: float, rng: np.random.Generator) -> None:
        """Calls a passage back if a phrase has ended within the last ``steps`` and it is time."""
        motifs, now = self._session.motifs, self._decoder.step
        if motifs is None or not motifs.may_call or now - motifs.last_onset < BREATH_S * STEPS_PER_S:
            return
        first, onsets = motifs.onsets()
        waits = np.diff(onsets)
        last = np.sort(waits[waits > 0][-BREATH_ONSETS:])
        breath = max(BREATH_S * STEPS_PER_S, last[int(BREATH_QUANTILE * (len(last) - 1))] if len(last) else 0)
        if not now - steps < motifs.last_onset + breath <= now:
            return
        since_s, self._breath_step = (now - self._breath_step) / STEPS_PER_S, now
        if motifs.called or motifs.returning or motifs.followed >= codec.CALL_STRIKES:
            return
        begins = np.flatnonzero(np.r_[True, waits >= breath] & (now - onsets >= OLD_S * STEPS_PER_S))
        if not len(begins) or rng.random() >= -np.expm1(-per_minute * since_s / 60):
            return
        place = int(begins[int(rng.random() * len(begins))])
        strikes = RETURN_STRIKES + int(-LONGER_STRIKES * math.log1p(-rng.random()))
        self._call(first + place, strikes)

    def _weighed(self) -> NDArray[np.float32]:
        """The logits (V,), that of how a passage that was called back goes on raised."""
        logits, motifs = self._logits.copy(), self._session.motifs
        if motifs is not None and (event := motifs.insisted) >= 0:
            logits[event] += np.float32(INSIST_NATS)
        return logits

    def _call(self, place: int, strikes: int) -> None:
        for session in (self._session, self._untold):
            if session is not None and session.motifs is not None:
                session.motifs.call(place, strikes=strikes)

    def _read(self) -> None:
        if self._unread:
            unread, g = np.array(self._unread), self._guidance
            self._logits = self._session.read(unread)
            if self._untold is not None:
                self._logits = (1 - g) * self._untold.read(unread) + g * self._logits
            self._unread = []

    def _legal(self, may_end: bool, playable: bool) -> NDArray[np.bool_]:
        legal, sounding, step = self._grammar.legal(), self._grammar.sounding, self._decoder.step
        legal[codec.END] &= may_end and self._has_notes
        if playable:
            legal[codec.END] &= self.seconds >= self._engine.trained_on.get("shortest_s", 0)
            slower = legal.copy()
            slower[: codec.NOTE_OFF] &= step - self._struck_steps >= round(RESTRIKE_S * STEPS_PER_S)
            if (wait := STEPS_PER_S + int(self._strike_steps[self._strikes % MOST_STRIKES]) - step) > 0:
                slower[: codec.NOTE_OFF] = slower[codec.VELOCITY : codec.END] = False
                if not sounding.any():  # after a shorter one nothing could come
                    slower[codec.SHIFT : codec.SHIFT + wait - 1] = False
            legal = slower if slower.any() else legal
        most_s = OPENING_S if not self._has_notes else HELD_S if sounding.any() else REST_S
        last = self._key_step + round(most_s * STEPS_PER_S)
        least = min(max(0, self._silent_until - step), MAX_SHIFT_STEPS)
        if playable and sounding.any():
            let_go = self._struck_steps + round(LONGEST_S * STEPS_PER_S)  # at the latest
            overdue = legal[codec.NOTE_OFF : codec.SHIFT] & (let_go <= step)
            if overdue.any() and not least:
                legal[:] = False
                legal[codec.NOTE_OFF + int(overdue.argmax())] = True
            last = min(last, max(int(let_go[sounding].min()), step + 1))
        most = min(max(least, last - step), MAX_SHIFT_STEPS)
        legal[codec.SHIFT + most : codec.VELOCITY] = False
        if least and legal[codec.SHIFT + most - 1]:
            legal[: codec.SHIFT + least - 1] = False
            legal[codec.VELOCITY :] = False
        return legal


def to_steps(seconds: ArrayLike) -> Any:
    """The nearest 10 ms steps of times, as the encoder rounds them."""
    return np.floor(np.minimum(seconds, MAX_SECONDS) * STEPS_PER_S + 0.5).astype(np.int64)
