"""Music in the making: voices that play when they are asked to, by turns, in one thread.

A voice is one stream of the page's: it reads what stands before it, then plays until its music reaches the time that it
was asked for, and waits. All voices of all pages take turns token by token, so that a long prompt stops nobody, and what
changes a voice happens between two turns. Times are seconds of music from the start of the prompt.
"""

from __future__ import annotations

import copy
import queue
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec.vocabulary import MAX_SHIFT_STEPS, STEPS_PER_S
from ritornello.engines import Engine
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import HELD_S, OPENING_S, REST_S
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
            busy = any([self._turn(task) for task in list(self._tasks)])

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
        engine: plays.
        prompt: tokens (T,), END left out, that stand before; all before ``from_s``.
        from_s: when the music goes on.
        seed: of all that is drawn.
        sampling: how, from the next token on; may be replaced.
        tell: takes messages: ``notes`` as they finish, ``end``.
    """

    def __init__(
        self, engine: Engine, prompt: NDArray[np.integer], *, from_s: float, seed: int, sampling: Sampling, tell: Tell
    ) -> None:
        self.sampling, self.until_s, self.closed = sampling, from_s, False
        self._engine, self._tell = engine, tell
        self._rng = np.random.default_rng(seed)
        self._from = round(from_s * STEPS_PER_S)
        self._tokens = prompt.astype(np.int64).tolist()
        self._grammar, self._decoder = codec.Grammar(), codec.StreamDecoder()
        for token in self._tokens:
            self._take(token)
        steps = codec.steps_of(prompt)
        self._steps = int(steps[-1]) if len(steps) else 0
        self._key_step = int(steps[prompt < codec.SHIFT].max(initial=0))
        self._has_notes = bool(np.any(prompt < codec.NOTE_OFF))
        self._open: dict[int, int] = {}  # keys struck since `from_s`, and when
        self._finished: list[codec.Note] = []
        self._told_s = 0.0

    def fork(self, seed: int, tell: Tell) -> Voice:
        """A voice that goes on from this one's present moment with a seed of its own; between two turns."""
        other = copy.copy(self)
        other._tell, other._rng = tell, np.random.default_rng(seed)
        other._tokens, other._open, other._finished = list(self._tokens), dict(self._open), list(self._finished)
        other._grammar, other._decoder = copy.deepcopy(self._grammar), copy.deepcopy(self._decoder)
        other._told_s = 0.0
        return other

    def play(self) -> Turns:
        """Reads what stands before, and plays: until the model ends the piece, or the voice is closed."""
        session = self._engine.begin()
        given = np.r_[codec.START, self._tokens]
        for first in range(0, len(given), TURN_TOKENS):
            if self.closed:
                return
            logits = session.read(given[first : first + TURN_TOKENS])
            yield True
        while not self.closed:
            if self._steps >= self.until_s * STEPS_PER_S:
                self._tell_notes()
                yield False
                continue
            token = self.sampling.draw(logits, self._legal(), self._rng)
            self._play(token)
            if token == codec.END:
                self._tell_notes()
                self._tell({"op": "end", "upTo": self._steps / STEPS_PER_S})
                return
            if time.monotonic() > self._told_s + TELL_S and self._finished:
                self._tell_notes()
            logits = session.read(np.array([token]))
            yield True

    def _legal(self) -> NDArray[np.bool_]:
        """(V,) what may come next: by the grammar, within the longest rests, and nothing before `from_s`."""
        legal = self._grammar.legal()
        legal[codec.END] &= self._has_notes
        missing = self._from - self._steps
        if missing > 0:
            legal[: codec.SHIFT + min(missing, MAX_SHIFT_STEPS) - 1] = False
            legal[codec.VELOCITY :] = False
            return legal
        most_s = OPENING_S if not self._has_notes else HELD_S if self._grammar.sounding.any() else REST_S
        left = max(0, max(self._key_step, self._from) + round(most_s * STEPS_PER_S) - self._steps)
        legal[codec.SHIFT + min(left, MAX_SHIFT_STEPS) : codec.VELOCITY] = False
        return legal

    def _play(self, token: int) -> None:
        finished = self._take(token)
        self._tokens.append(token)
        if token < codec.SHIFT:
            self._key_step = self._steps
        elif token < codec.VELOCITY:
            self._steps += token - codec.SHIFT + 1
        if token < codec.NOTE_OFF:
            self._has_notes = True
            self._open[token] = self._steps
        elif token < codec.SHIFT:
            self._open.pop(token - codec.NOTE_OFF, None)
        self._finished += [note for note in finished if round(note.onset * STEPS_PER_S) >= self._from]

    def _take(self, token: int) -> list[codec.Note]:
        self._grammar.advance(token)
        return self._decoder.feed(token)

    def _tell_notes(self) -> None:
        """Everything that starts before ``upTo`` has been told then."""
        up_to = min([self._steps, *self._open.values()]) / STEPS_PER_S
        if self._finished or up_to > self._told_up_to:
            notes = [[note.onset, note.offset, note.pitch, note.velocity] for note in self._finished]
            self._tell({"op": "notes", "notes": notes, "upTo": up_to})
        self._finished, self._told_up_to, self._told_s = [], up_to, time.monotonic()

    _told_up_to = -1.0


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
