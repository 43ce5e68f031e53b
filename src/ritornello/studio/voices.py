"""Music in the making: voices that play when they are asked to, by turns, in one thread.

A voice is one stream of the page's: it reads what stands before it, then plays until its music reaches the time that
it was asked for, and waits. All voices of all pages take turns token by token, so that a long prompt stops nobody, and
what changes a voice happens between two turns. Times are seconds of music from the start of the prompt.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec.vocabulary import STEPS_PER_S
from ritornello.engines import Engine
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Take
from ritornello.sampling import Sampling

TURN_TOKENS = 64
"""of a prompt that are read in one turn"""
TELL_S = 0.05
"""how long finished notes may wait for others to be told with"""

Tell = Callable[[dict[str, Any]], None]
Turns = Iterator[bool]
"""work in turns: each says whether there is more to do now"""


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
        busy = False
        while not self._stopped:
            try:
                while True:
                    self._jobs.get(block=not busy)()
                    busy = True  # a job may have given work
            except queue.Empty:
                pass
            turns = [self._turn(task) for task in list(self._tasks)]
            busy = any(turns)

    def _turn(self, task: Task) -> bool:
        try:
            return next(task.turns)
        except StopIteration:
            pass
        except RitornelloError as error:
            task.tell({"op": "error", "message": str(error)})
        except Exception:  # one voice must not take the others with it
            task.tell({"op": "error", "message": "the engine failed; start again, and report it if that does not help"})
        self._tasks.remove(task)
        return False


class Voice:
    """One stream of notes.

    Args:
        take: that hears and plays; no one else uses it.
        prompt: tokens (T,), END left out, that it has yet to hear; all before ``from_s``.
        from_s: when the music goes on.
        seed: of all that is drawn.
        sampling: how, from the next event on; may be replaced.
        told: what the music is to be (`Take.tell`), from the first token on; see `steer`.
        tell: takes messages: ``notes`` as they finish, ``end``.
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
        self._open: dict[int, float] = {}  # keys struck since `from_s`, and when
        self._finished: list[codec.Note] = []
        self._told_up_to, self._told_at = -1.0, 0.0

    def turns(self) -> Turns:
        """Hears what stands before, and plays: until the model ends the piece, or the voice is closed."""
        yield from self._hear()
        while not self.closed:
            if self.take.seconds >= self.until_s:
                self._tell_notes()
                yield False
                continue
            self._play()
            if self.take.ended:
                self._tell_notes()
                self._tell({"op": "end", "upTo": self.take.seconds})
                return
            if self._finished and time.monotonic() > self._told_at + TELL_S:
                self._tell_notes()
            yield True

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
        other._open, other._finished, other._told_up_to = dict(self._open), list(self._finished), -1.0
        return other

    def _hear(self) -> Turns:
        if self._source is not None:
            while not self._source.ready:
                if self._source.closed:
                    raise RitornelloError("the stream to go on from was closed")
                yield False
            self.take = self._source.take.fork()
            self.take.tell(self.told)
        elif not self.ready:
            for first in range(0, max(1, len(self._prompt)), TURN_TOKENS):
                if self.closed:
                    return
                self.take.hear(self._prompt[first : first + TURN_TOKENS], until_s=self._from_s)
                yield True
        self.ready, self._source = True, None
        yield True  # those who wait for it fork before it plays

    def _play(self) -> None:
        event = self.take.play(self.sampling, self._rng)
        if event.key is not None:
            if event.key.velocity:
                self._open[event.key.pitch] = event.key.time_s
            else:
                self._open.pop(event.key.pitch, None)
        self._finished += [note for note in event.finished if note.onset > self._from_s - codec.STEP_S / 2]

    def _tell_notes(self) -> None:
        """Everything that starts before ``upTo`` has been told then."""
        up_to = min([self.take.seconds, *self._open.values()])
        if self._finished or up_to > self._told_up_to:
            notes = [[note.onset, note.offset, note.pitch, note.velocity] for note in self._finished]
            self._tell({"op": "notes", "notes": notes, "upTo": up_to})
        self._finished, self._told_up_to, self._told_at = [], up_to, time.monotonic()


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
        yield True
    tell({"op": "score", "nats": float(nats[scored].mean()) if scored.any() else None})
