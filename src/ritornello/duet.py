"""A duet: a person plays, the model reads along, takes over, and hands back at the next key.

`Duet` knows no ports, no threads and no clock. Whoever runs it tells it what the person does and what time it is, and
it sends the model's keys when they are due. All times are seconds of one clock that does not go back.

Two takes are kept (see `Take`): one has heard all that sounded, from both players, and one runs ahead of it
while the model plays. When the person comes in again the second is dropped, so that the memory holds what was heard and
nothing of what was planned.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NamedTuple, get_args

import numpy as np

from ritornello import codec
from ritornello.codec.vocabulary import MAX_SHIFT_STEPS, STEPS_PER_S, velocity_bin
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.take import REST_S, Take

Takeover = Literal["pedal", "silence", "key"]
TAKEOVERS: tuple[Takeover, ...] = get_args(Takeover)
Handback = Literal["key", "pedal"]
HANDBACKS: tuple[Handback, ...] = get_args(Handback)
KEY = 21
"""the lowest of a piano"""
AHEAD_S, MOST_AHEAD_S = 0.5, 4.0
"""how far ahead of the clock the model plays: its reserve, which doubles whenever a key comes `LATE_S` late"""
LATE_S = 0.01
PACE_STRIKES = 32
PACE_QUANTILE, PACE_FACTOR = 0.9, 3.0
LEAST_SILENCE_S, MOST_SILENCE_S = 0.6, 4.0
"""a silence ends a phrase where it is `PACE_FACTOR` times as long as nine in ten of the last gaps between strikes"""
IDLE_S = 0.05
"""between looks at the clock while nothing is due"""

Send = Callable[[int, int, float], None]
"""pitch and velocity of a key, 0 to let it go, and when that is due"""


class Played(NamedTuple):
    """A note that sounded: times in seconds from the duet's first key, and whether the model played it."""

    onset: float
    offset: float
    pitch: int
    velocity: int
    by_model: bool


class _Planned(NamedTuple):
    step: int
    token: int
    pitch: int
    velocity: int


@dataclass
class Delays:
    """What a duet measures of itself, in seconds."""

    takeovers: list[float] = field(default_factory=list)
    """from a takeover's cause to the model's first key, beyond the rest that the model plays"""
    latest: float = 0.0
    """the most that a key came after its time"""


class Duet:
    """One person and one model at one piano.

    Args:
        performer: who plays with the person; its sampling may change at any time, what it is told from turn to turn.
        send: what the model's keys are given to. It must not wait.
        seed: of what the model draws.
        takeover: the model's turn comes with the pedal (it comes up and no key is held), with silence after a phrase,
            or with a key, which is then no music.
        key: that key's pitch.
        handback: any key that the person strikes ends the model's turn; with ``"pedal"`` their pedal does too.
        lead_s: how long before their time keys are sent, to whoever plays them at their time and forgets those that
            are still to come when the person comes in.
    """

    def __init__(
        self,
        performer: Performer,
        send: Send,
        *,
        seed: int,
        takeover: Takeover = "silence",
        key: int = KEY,
        handback: Handback = "key",
        lead_s: float = 0.0,
    ) -> None:
        if not 0 <= key <= 127:
            raise RitornelloError(f"key is {key}; it must lie between 0 and 127")
        self._performer, self._send, self._key, self._lead_s = performer, send, key, lead_s
        self.agree(takeover, handback)
        self._rng = np.random.default_rng(seed)
        self.delays = Delays()
        self.notes: list[Played] = []
        """what sounded and is over, in order of ends"""
        self.pedals: list[tuple[float, float]] = []
        """spans of the person's pedal, as of `notes`"""
        self._began_s: float | None = None  # when step 0 of the heard take is
        self._first_s: float | None = None  # the duet's first key
        self._heard, self._told = performer.begin(), (performer.told, performer.guidance)
        self._encoder = codec.StreamEncoder()
        self._held: dict[int, tuple[float, int]] = {}  # the person's keys: since when, and velocity
        self._down_s: float | None = None  # the person's pedal
        self._strikes: deque[float] = deque(maxlen=PACE_STRIKES)
        self._last_s = 0.0  # when something last happened that the heard take knows of
        self._has_turn = True  # the person has struck a key since the model played last
        self._prefetched: Take | None = None  # the model's, while it plays
        self._awaited = False  # its first key
        self._ahead_s = AHEAD_S
        self._plan: deque[_Planned] = deque()  # its events that have not been sent
        self._coming: deque[tuple[float, _Planned]] = deque()  # sent, and when they are due
        self._down: set[int] = set()  # its keys, as they were sent
        self._unheard: list[int] = []  # its events that have sounded
        self._sounding: dict[int, tuple[float, int]] = {}  # its keys: since when, and velocity

    @property
    def has_begun(self) -> bool:
        """Whether a key was struck."""
        return self._began_s is not None

    @property
    def playing(self) -> bool:
        """Whether it is the model's turn."""
        return self._prefetched is not None

    @property
    def reserve_s(self) -> float:
        """Seconds of music that are ready beyond the next key."""
        return (self._plan[-1].step - self._plan[0].step) / STEPS_PER_S if self._plan else 0.0

    @property
    def silence_s(self) -> float:
        """How long the person may be silent before the model comes in, guessed from their pace."""
        gaps = np.diff(self._strikes)
        pace = float(np.quantile(gaps, PACE_QUANTILE)) if len(gaps) else MOST_SILENCE_S
        return min(max(PACE_FACTOR * pace, LEAST_SILENCE_S), MOST_SILENCE_S)

    def sounds(self, pitch: int) -> bool:
        """Whether either player holds a key."""
        return pitch in self._held or pitch in self._sounding

    def pieces(self) -> tuple[Piece, Piece]:
        """What the person and the model have played, from the duet's first key on."""
        ours, theirs = ([note[:4] for note in self.notes if note.by_model is model] for model in (True, False))
        person = Piece.from_notes(theirs, pedals=np.reshape(self.pedals, (-1, 2)), title="person")
        return person, Piece.from_notes(ours, title="model")

    def agree(self, takeover: Takeover, handback: Handback) -> None:
        """Has turns change otherwise from now on. Raises RitornelloError for what is unknown."""
        if takeover not in TAKEOVERS:
            raise RitornelloError(f"unknown takeover {takeover!r}; there are {', '.join(TAKEOVERS)}")
        if handback not in HANDBACKS:
            raise RitornelloError(f"unknown handback {handback!r}; there are {', '.join(HANDBACKS)}")
        self._takeover, self._handback = takeover, handback

    # ---- what the person does ----

    def strike(self, time_s: float, pitch: int, velocity: int) -> None:
        """The person strikes a key; the model falls silent."""
        if self._takeover == "key" and pitch == self._key:
            if self.playing:
                self.interrupt(time_s)
            elif self.has_begun:
                self._take_over(time_s)
            return
        if self.playing:
            self.interrupt(time_s)
        if self._began_s is None:
            self._began_s = self._first_s = self._last_s = time_s
        self._skip_rest(time_s)
        if pitch in self._held:
            self._note(self._held.pop(pitch), time_s, pitch, by_model=False)
        self._encoder.strike(self._piece_s(time_s), pitch, velocity)
        self._held[pitch] = (time_s, velocity)
        self._strikes.append(time_s)
        self._has_turn = True

    def release(self, time_s: float, pitch: int) -> None:
        """The person lets a key go."""
        if pitch not in self._held:
            return
        self._note(self._held.pop(pitch), time_s, pitch, by_model=False)
        if not self.playing:
            self._encoder.release(self._piece_s(time_s), pitch)
            self._last_s = time_s

    def pedal(self, time_s: float, down: bool) -> None:
        """The person's pedal goes down, or up."""
        if down == (self._down_s is not None):
            return
        if self._down_s is not None and self._first_s is not None and time_s > self._first_s:
            self.pedals.append((max(self._down_s - self._first_s, 0.0), time_s - self._first_s))
        self._down_s = time_s if down else None
        if self.playing:
            if down and self._handback == "pedal":
                self.interrupt(time_s)
            return
        self._encoder.pedal(self._piece_s(time_s), down)
        self._last_s = time_s
        if not down and self._takeover == "pedal" and self.has_begun and self._has_turn and not self._held:
            self._take_over(time_s)

    # ---- what time does ----

    def tick(self, time_s: float) -> float:
        """Does what is due, and a little of what can be done ahead; returns how long nothing is due then."""
        if self._began_s is None:
            return IDLE_S
        if self._prefetched is None:
            return self._listen(time_s)
        while self._planned_s() <= time_s + self._lead_s:
            self._play(time_s)
        self._sound(time_s)
        if self._moment_s(_step_of(self._prefetched)) - time_s < self._ahead_s + self._lead_s:
            self._play_on()
            return 0.0
        if self._hear_own():
            return 0.0
        coming_s = self._coming[0][0] if self._coming else math.inf
        return min(IDLE_S, self._planned_s() - self._lead_s - time_s, coming_s - time_s)

    def interrupt(self, time_s: float) -> None:
        """Ends the model's turn: its keys are let go, and what it had planned is forgotten."""
        if self._prefetched is None:
            return
        self._sound(time_s)
        for pitch in sorted(self._sounding):
            self._send(pitch, 0, time_s)
            self._note(self._sounding.pop(pitch), time_s, pitch, by_model=True)
        self._prefetched = None
        self._plan.clear()
        self._coming.clear()
        self._down.clear()
        while self._hear_own():
            pass
        self._unheard = []  # a rest that was not over
        # What sounded is let go here, a step after the last event at the soonest, and as `encode` would write it.
        step = max(self._step(time_s), _step_of(self._heard) + 1)
        if self._heard.sounding.any():
            seconds, rest = divmod(step - _step_of(self._heard) - 1, MAX_SHIFT_STEPS)
            shifts = [codec.VELOCITY - 1] * seconds + [codec.SHIFT + rest]
            self._heard.hear(shifts + [codec.NOTE_OFF + int(pitch) for pitch in np.flatnonzero(self._heard.sounding)])
        self._encode_from(step)
        self._has_turn, self._last_s = False, time_s

    def close(self, time_s: float) -> None:
        """Ends the duet: no key of the model's is left down, and `notes` and `pedals` are whole."""
        self.interrupt(time_s)
        for pitch in list(self._held):
            self._note(self._held.pop(pitch), time_s, pitch, by_model=False)
        self.pedal(time_s, False)

    # ---- inside ----

    def _listen(self, time_s: float) -> float:
        may_come_in = self._takeover == "silence" and self._has_turn and not self._held
        if may_come_in and time_s - self._last_s >= self.silence_s:
            self._take_over(time_s)
            return 0.0
        if tokens := self._encoder.until(self._piece_s(time_s)):
            self._heard.hear(tokens)
        return IDLE_S

    def _take_over(self, time_s: float) -> None:
        # Whatever the person's last step holds is heard now, and keys that are still down are the model's to let go.
        self._heard.hear(self._encoder.until(self._piece_s(time_s) + 1 / STEPS_PER_S))
        self._skip_rest(time_s)
        self._heard.hear((), until_s=max(self._step(time_s), _step_of(self._heard)) / STEPS_PER_S)
        told = (self._performer.told, self._performer.guidance)
        if told != self._told:
            self._heard.tell(told[0], guidance=told[1])
            self._told = told
        self._prefetched = self._heard.fork()
        self._awaited = True
        self._play_on()

    def _play_on(self) -> None:
        """One event more into the plan."""
        assert self._prefetched is not None
        event = self._prefetched.play(self._performer.sampling, self._rng, may_end=False)
        pitch, velocity = (event.key.pitch, event.key.velocity) if event.key else (-1, 0)
        self._plan.append(_Planned(_step_of(self._prefetched), event.token, pitch, velocity))

    def _planned_s(self) -> float:
        """When the first planned moment is, once no more can come that belongs to it: until then, never."""
        if self._prefetched is None or not self._plan or self._plan[0].step == _step_of(self._prefetched):
            return math.inf
        return self._moment_s(self._plan[0].step)

    def _play(self, time_s: float) -> None:
        """Sends the keys of the first planned moment together, for its time, or for now where that is over."""
        assert self._began_s is not None
        step, at_s = self._plan[0].step, max(self._planned_s(), time_s)
        late_s = at_s - self._planned_s()
        events = [event for event in self._plan if event.step == step]
        for event in events:
            self._plan.popleft()
            self._coming.append((at_s, event))
            if event.velocity or event.pitch in self._down:  # else a key of the person's, which is theirs to let go
                (self._down.add if event.velocity else self._down.discard)(event.pitch)
                self._send(event.pitch, event.velocity, at_s)
        if not any(event.velocity for event in events):
            return
        if late_s > LATE_S:  # what is to come hesitates once, instead of rushing after time
            self._ahead_s = min(2 * self._ahead_s, MOST_AHEAD_S)
            self._began_s += late_s
        if self._awaited:
            self.delays.takeovers.append(late_s)
        else:
            self.delays.latest = max(self.delays.latest, late_s)
        self._awaited = False

    def _sound(self, time_s: float) -> None:
        """Takes what was sent and is due now as having sounded."""
        while self._coming and self._coming[0][0] <= time_s:
            at_s, (_, token, pitch, velocity) = self._coming.popleft()
            self._unheard.append(token)
            if velocity:
                self._sounding[pitch] = (at_s, velocity)
            elif pitch in self._sounding:
                self._note(self._sounding.pop(pitch), at_s, pitch, by_model=True)

    def _hear_own(self) -> bool:
        """Reads the model's next event that has sounded, with the rest before it; False where there is none."""
        for count, token in enumerate(self._unheard, 1):
            if not codec.SHIFT <= token < codec.VELOCITY:
                self._heard.hear(self._unheard[:count])
                del self._unheard[:count]
                return True
        return False

    def _encode_from(self, step: int) -> None:
        """What the person does from a step on comes behind what was heard."""
        self._encoder = codec.StreamEncoder(_step_of(self._heard), int(velocity_bin(self._heard.velocity)), step=step)
        self._encoder.pedal(step / STEPS_PER_S, self._down_s is not None)

    def _skip_rest(self, time_s: float) -> None:
        """Stops the music's clock where nothing happens for longer than anybody rests in music."""
        rest_s, self._last_s = time_s - self._last_s, time_s
        if self._began_s is not None and rest_s > REST_S and not (self._held or self._encoder.sounding):
            self._heard.hear(self._encoder.until(self._piece_s(time_s)))
            self._began_s += rest_s - REST_S
            self._encode_from(self._step(time_s))

    def _note(self, key: tuple[float, int], time_s: float, pitch: int, *, by_model: bool) -> None:
        assert self._first_s is not None
        onset_s, velocity = key
        self.notes.append(Played(onset_s - self._first_s, time_s - self._first_s, pitch, velocity, by_model))

    def _piece_s(self, time_s: float) -> float:
        return 0.0 if self._began_s is None else time_s - self._began_s

    def _moment_s(self, step: int) -> float:
        return step / STEPS_PER_S + (self._began_s or 0.0)

    def _step(self, time_s: float) -> int:
        return math.floor(self._piece_s(time_s) * STEPS_PER_S + 0.5)


def _step_of(take: Take) -> int:
    return round(take.seconds * STEPS_PER_S)
