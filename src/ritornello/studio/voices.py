"""Music in the making: voices that play when they are asked to, by turns, in one thread.

A voice is one stream of the page's: it reads what stands before it, then plays until the notes up to the time that it
was asked for are over, and waits. All voices of all pages take turns token by token, so that a long prompt stops
nobody, and what changes a voice happens between two turns. Times are seconds of music from the start of the prompt. A
partner plays with the person at the page, by the page's clock.
"""

from __future__ import annotations

import copy
import math
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec.vocabulary import STEPS_PER_S
from ritornello.duet import Duet, Handback, Takeover
from ritornello.engines import Engine
from ritornello.errors import RitornelloError
from ritornello.live import obey
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.take import KeyEvent, Take

TURN_TOKENS = 64
"""of a prompt that are read in one turn"""
TELL_S = 0.05
"""how long finished notes may wait for others to be told with"""

JUMP_S = 1.0
"""that a page's clock may be found to be ahead of what its first message said"""
LEAD_S = 0.1
"""how long before their time a partner's keys are told, so that they sound at their time"""

Tell = Callable[[dict[str, Any]], None]
Turns = Iterator[float]
"""work in turns: each says for how many seconds there is nothing to do then"""
NOW, LATER = 0.0, math.inf
"""nothing to wait for; nothing to do until something is asked"""


class Task(NamedTuple):
    """What the conductor works on."""

    turns: Turns
    tell: Tell


class Conductor(threading.Thread):
    """The one thread in which all music is made."""

    def __init__(self) -> None:
        super().__init__(name="studio", daemon=True)
        self._jobs: queue.SimpleQueue[Callable[[], None]] = queue.SimpleQueue()
        self._tasks: list[Task] = []
        self._stopped = False

    def between_turns(self, job: Callable[[], None]) -> None:
        """Has ``job`` done in this thread, soon."""
        self._jobs.put(job)

    def stop(self) -> None:
        """Ends the thread."""
        self.between_turns(lambda: setattr(self, "_stopped", True))

    def add(self, task: Task) -> None:
        """Gives a task its turns from now on, until it has no more; called between two turns."""
        self._tasks.append(task)

    def run(self) -> None:
        wait_s = LATER
        while not self._stopped:
            try:
                while True:
                    self._jobs.get(wait_s > NOW, None if wait_s == LATER else wait_s)()
                    wait_s = NOW  # a job may have given work
            except queue.Empty:
                pass
            wait_s = min([self._turn(task) for task in list(self._tasks)], default=LATER)

    def _turn(self, task: Task) -> float:
        try:
            return next(task.turns)
        except StopIteration:
            pass
        except RitornelloError as error:
            task.tell({"op": "error", "message": str(error)})
        except Exception:  # one voice must not take the others with it
            task.tell({"op": "error", "message": "the engine failed; start again, and report it if that does not help"})
        self._tasks.remove(task)
        return LATER


class Voice:
    """One stream of notes.

    Args:
        take: that hears and plays; no one else uses it.
        prompt: tokens (T,), END left out, that it has yet to hear; all before ``from_s``.
        from_s: when the music goes on.
        seed: of all that is drawn.
        sampling: how, from the next event on; may be replaced.
        told: what the music is to be (`Take.tell`), from the first token on; see `steer`.
        tell: takes messages: ``notes`` as they finish, with those that sound still as if let go now, and ``end``.
    """

    def __init__(
        self,
        take: Take,
        prompt: NDArray[np.integer],
        *,
        from_s: float,
        seed: int,
        sampling: Sampling,
        told: Mapping[str, float],
        tell: Tell,
    ) -> None:
        self.take, self.sampling, self.until_s, self.closed = take, sampling, from_s, False
        self.ready = False
        """whether it has heard what stands before"""
        self._prompt, self._from_s, self._tell = prompt, from_s, tell
        self._source: Voice | None = None  # that it goes on from, once that is ready
        self._rng = np.random.default_rng(seed)
        self.steer(told)
        self._open: dict[int, KeyEvent] = {}  # keys struck since `from_s` that sound
        self._finished: list[codec.Note] = []
        self._told_s, self._told_at = -1.0, 0.0

    def turns(self) -> Turns:
        """Hears what stands before, and plays: until the model ends the piece, or the voice is closed."""
        yield from self._hear()
        while not self.closed:
            if self._final_s >= self.until_s:
                self._tell_notes()
                yield LATER
                continue
            self._play()
            if self.take.ended:
                self._tell_notes()
                self._tell({"op": "end", "upTo": self.take.seconds})
                return
            if self._finished and time.monotonic() > self._told_at + TELL_S:
                self._tell_notes()
            yield NOW

    def steer(self, told: Mapping[str, float]) -> None:
        """Tells from the next token on what the music is to be."""
        self.told = told
        if self._source is None:  # else the take is the source's, until that is ready
            self.take.tell(told)

    def fork(self, seed: int, tell: Tell) -> Voice:
        """A voice that goes on from this one's present moment, or its prompt's end, with a seed of its own."""
        other = copy.copy(self)
        if self.ready:
            other.take = self.take.fork()
        else:
            other._source = self
        other._tell, other._rng = tell, np.random.default_rng(seed)
        other._open, other._finished, other._told_s = dict(self._open), list(self._finished), -1.0
        return other

    def _hear(self) -> Turns:
        if self._source is not None:
            while not self._source.ready:
                if self._source.closed:
                    raise RitornelloError("the stream to go on from was closed")
                yield LATER
            self.take = self._source.take.fork()
            self.take.tell(self.told)
        elif not self.ready:
            for first in range(0, max(1, len(self._prompt)), TURN_TOKENS):
                if self.closed:
                    return
                self.take.hear(self._prompt[first : first + TURN_TOKENS], until_s=self._from_s)
                yield NOW
        self.ready, self._source = True, None
        yield NOW  # those who wait for it fork before it plays

    def _play(self) -> None:
        event = self.take.play(self.sampling, self._rng)
        if event.key is not None:
            if event.key.velocity:
                self._open[event.key.pitch] = event.key
            else:
                self._open.pop(event.key.pitch, None)
        elif self.take.ended:
            self._open = {}
        self._finished += [note for note in event.finished if note.onset > self._from_s - codec.STEP_S / 2]

    @property
    def _final_s(self) -> float:
        """Every note that starts before is over."""
        return min([self.take.seconds, *(key.time_s for key in self._open.values())])

    def _tell_notes(self) -> None:
        """Everything that starts before ``upTo`` has been told then."""
        now_s = self.take.seconds
        if self._finished or now_s > self._told_s:
            notes = [[note.onset, note.offset, note.pitch, note.velocity] for note in self._finished]
            sounding = [
                [key.time_s, now_s, key.pitch, key.velocity] for key in self._open.values() if key.time_s < now_s
            ]
            self._tell({"op": "notes", "notes": notes, "sounding": sounding, "upTo": self._final_s})
        self._finished, self._told_s, self._told_at = [], now_s, time.monotonic()


class Partner:
    """The model at one piano with the person at the page (`duet.Duet`), by the page's clock.

    That is known from when its messages come: a message takes no time at the soonest.

    Args:
        performer: whose sampling and what it is told may be replaced; no one else uses it.
        seed: of all that is drawn.
        takeover: as of `Duet`, and so is ``handback``.
        tell: takes messages: ``turn`` (whose it is, and its number), ``key`` (`LEAD_S` before its time, with the number
            of the turn that it belongs to), ``notes`` and pedals that are over (from the first key on), and ``end``.
        clock: the time in seconds.
    """

    def __init__(
        self,
        performer: Performer,
        *,
        seed: int,
        takeover: Takeover,
        handback: Handback,
        tell: Tell,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.performer, self.closed = performer, False
        self._tell, self._clock = tell, clock
        self.duet = Duet(performer, self._send, seed=seed, takeover=takeover, handback=handback, lead_s=LEAD_S)
        self._inbox: deque[tuple[float, Callable[[], None] | None]] = deque()  # what is to be done, in order
        self._behind_s = math.inf  # of our clock to the page's,
        self._least_s = 0.0  # and the least that is believed
        self._now_s = 0.0
        self._turn = 0  # the model's last

    def hear(self, at_s: float, message: Sequence[int] | None) -> None:
        """Takes a MIDI message that came when the page's clock was at ``at_s``; None ends the duet."""
        now_s = self._clock()
        if math.isinf(self._behind_s):
            self._least_s = now_s - at_s - JUMP_S
        self._behind_s = max(min(self._behind_s, now_s - at_s), self._least_s)
        act = None if message is None else lambda: obey(self.duet, self._now_s, message)
        self._inbox.append((min(at_s, now_s - self._behind_s), act))

    def agree(self, takeover: Takeover, handback: Handback) -> None:
        """How turns change from here on: for messages that come later, not for those that wait."""
        self._inbox.append((-math.inf, lambda: self.duet.agree(takeover, handback)))

    def turns(self) -> Turns:
        """Plays until the duet is ended, or closed."""
        while not self.closed:
            was_playing = self.duet.playing
            if self._inbox:
                at_s, act = self._inbox.popleft()
                self._now_s = max(self._now_s, at_s)
                if act is None:
                    self.duet.close(self._now_s)
                    self.closed = True
                else:
                    act()
                wait_s = NOW
            else:
                self._now_s = max(self._now_s, self._clock() - self._behind_s)
                wait_s = self.duet.tick(self._now_s)
            if self.duet.playing != was_playing:
                self._turn += self.duet.playing
                self._tell({"op": "turn", "turn": self._turn, "playing": self.duet.playing, "at": self._now_s})
            self._tell_notes()
            yield wait_s
        self._tell({"op": "end"})

    def _send(self, pitch: int, velocity: int, at_s: float) -> None:
        self._tell({"op": "key", "turn": self._turn, "pitch": pitch, "velocity": velocity, "at": at_s})

    def _tell_notes(self) -> None:
        notes, pedals = self.duet.notes, self.duet.pedals
        if notes or pedals:
            self._tell({"op": "notes", "notes": [list(note) for note in notes], "pedals": list(pedals)})
            self.duet.notes, self.duet.pedals = [], []


def prompt_of(piece: Piece, from_s: float | None) -> tuple[NDArray[np.uint16], float]:
    """The tokens of all that happens before ``from_s`` (None: of all), and when music goes on."""
    tokens = codec.encode(piece)[:-1]
    if from_s is None:
        return tokens, codec.seconds_of(tokens)
    return tokens[codec.steps_of(tokens) < round(from_s * STEPS_PER_S)], from_s


def score(engine: Engine, piece: Piece, from_s: float, to_s: float, tell: Tell) -> Turns:
    """Tells ``score``: mean nats/token, among legal events, of what happens from ``from_s`` up to ``to_s``."""
    tokens = codec.encode(piece)[:-1]
    steps = codec.steps_of(tokens)
    tokens = tokens[steps < round(to_s * STEPS_PER_S)]
    scored = steps[: len(tokens)] >= round(from_s * STEPS_PER_S)
    contexts, session = codec.contexts(tokens), engine.begin()
    given = np.r_[codec.START, tokens.astype(np.int64)]
    nats = np.zeros(len(tokens))
    for first in range(0, len(tokens), TURN_TOKENS):
        part = slice(first, min(first + TURN_TOKENS, len(tokens)))
        legal = codec.legal_events(codec.Context(*(field[part] for field in contexts)))
        logits = np.where(legal, session.score(given[part]).astype(np.float64), -np.inf)
        highest = logits.max(1)
        chosen = logits[np.arange(len(logits)), tokens[part]]
        nats[part] = highest + np.log(np.exp(logits - highest[:, None]).sum(1)) - chosen
        yield NOW
    tell({"op": "score", "nats": float(nats[scored].mean()) if scored.any() else None})
