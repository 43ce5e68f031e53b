"""Playing: a loaded model as a stream of notes in time, from nothing or from a piece that someone played.

`Performer` makes whole performances and streams; one of them in the making, event by event, is a `Take`.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello import codec
from ritornello.codec import steering
from ritornello.codec.vocabulary import STEPS_PER_S
from ritornello.engines import DEFAULT_ENGINE, Engine, load_engine
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.sampling import Sampling
from ritornello.take import Event, KeyEvent, Take, to_steps

MAX_MINUTES = 24 * 60.0
PAUSE_S = 2.0
"""silence between a piece that the model has ended and the next"""
Progress = Callable[[float], None]
Stop = Callable[[], bool]


def _never() -> bool:
    return False


@dataclass(frozen=True)
class Performance:
    """What was played."""

    piece: Piece
    prompt_s: float
    """seconds at its beginning that were given, not played"""
    ended: bool
    """whether the model ended it by itself, before the asked length"""
    tokens: int
    """events that the model chose"""
    pieces: int = 1
    """how many it holds, one after another"""

    def continuation(self) -> Piece:
        """What was played alone: the notes struck from the prompt's end on, which is second 0 now."""
        piece = self.piece
        new = to_steps(piece.onset) >= to_steps(self.prompt_s)
        onset, offset = piece.onset[new] - self.prompt_s, piece.offset[new] - self.prompt_s
        return Piece(onset, offset, piece.pitch[new], piece.velocity[new], title=piece.title)


class Performer:
    """Plays with one engine.

    Args:
        sampling: how events are drawn. It may be replaced at any time; a stream obeys it from its next event on.
        told: what the music is to be, and how much that is to weigh: see `Take.tell`.

    Raises:
        RitornelloError: for labels that the engine does not know.
    """

    def __init__(
        self,
        engine: Engine,
        sampling: Sampling | None = None,
        *,
        told: Mapping[str, float] | None = None,
        guidance: float = 1.0,
    ) -> None:
        self.engine = engine
        self.sampling = sampling or Sampling()
        self.told = told or {}
        self.guidance = guidance
        if self.told:
            steering.weights(engine.labels, self.told)  # a label that the engine does not know shows now

    def begin(self) -> Take:
        """A performance in the making that has no event yet, and is told what the performer is."""
        take = Take(self.engine)
        if self.told:
            take.tell(self.told, guidance=self.guidance)
        return take

    def resume(self, saved: Mapping[str, NDArray[Any]]) -> Take:
        """The take that was saved (`Take.save`). Raises RitornelloError if it is of another engine or model."""
        return Take.resume(self.engine, saved)

    def generate(
        self,
        *,
        seconds: float,
        seed: int,
        may_end: bool = True,
        again: bool = False,
        course: NDArray[np.integer] | None = None,
        progress: Progress | None = None,
        stop: Stop = _never,
    ) -> Performance:
        """A new piece of ``seconds`` at most; the same seed gives the same piece on the same engine.

        How dense, loud and high it is follows a ``course`` (N, 3) of `steering.course_of`, where the engine knows such
        labels and ``told`` says nothing of them.

        It is shorter if the model ends it and ``may_end`` allows that; with ``again`` another piece follows then,
        `PAUSE_S` later, until the time is over. Whenever ``stop()`` is true it ends there, and is whole up to there.

        Raises:
            RitornelloError: for an absurd length.
        """
        check_length(seconds)
        rng = np.random.default_rng(seed)

        def part(start_s: float) -> Performance:
            """The piece that begins there."""
            left_s, later = seconds - start_s, None if progress is None else _shifted(progress, start_s)
            return self._perform(self.begin(), left_s, rng, may_end, later, stop, course=course)

        performance = latest = part(0.0)
        start_s = latest.piece.seconds + PAUSE_S
        while again and latest.ended and start_s < seconds and not stop():
            latest = part(start_s)
            performance = _followed(performance, latest, start_s)
            start_s += latest.piece.seconds + PAUSE_S
        return performance

    def continue_piece(
        self,
        piece: Piece,
        *,
        seconds: float,
        seed: int,
        prompt_s: float | None = None,
        may_end: bool = True,
        progress: Progress | None = None,
        stop: Stop = _never,
    ) -> Performance:
        """``piece`` up to ``prompt_s`` (None: all of it), and up to ``seconds`` more that follow it.

        The prompt's notes and pedal stay as they were played; a note that sounds across the border is released where
        the model lets it go. The border lies on the grid of 10 ms; the model begins there, not before.
        It ends whenever ``stop()`` is true.

        Raises:
            RitornelloError: if the prompt has no notes, or for an absurd length.
        """
        if prompt_s is not None and not prompt_s > 0:
            raise RitornelloError(f"a prompt of {prompt_s:g} seconds holds no music; give a positive number")
        tokens = codec.encode(piece)[:-1]
        border_s = codec.seconds_of(tokens)
        if prompt_s is not None and to_steps(prompt_s) < to_steps(border_s):
            border_s = to_steps(prompt_s) / STEPS_PER_S
            tokens = tokens[codec.steps_of(tokens) < to_steps(prompt_s)]
        if not np.any(tokens < codec.NOTE_OFF):
            first = f"; its first note is at {piece.onset[0]:.2f} s" if len(piece) else ""
            raise RitornelloError(f"the prompt has no notes{first}; give a piece with notes, or more of it")
        take = self.begin()
        take.hear(tokens, until_s=border_s)
        new = self._perform(take, seconds, np.random.default_rng(seed), may_end, progress, stop, border_s)
        return replace(new, piece=_spliced(piece, new.piece, border_s))

    def stream(self, *, seed: int, prompt: ArrayLike = ()) -> Iterator[KeyEvent]:
        """Keys as they are struck and released, without end, in order of their times: what a live player sends on.

        The keys of one moment come together, once all of them are known, so that a chord sounds as a chord.
        Where the model ends a piece another follows `PAUSE_S` later. Memory does not grow. Nothing waits: see `paced`.
        """
        rng, take = np.random.default_rng(seed), self.begin()
        take.hear(prompt)
        base_s = -take.seconds  # when the present piece begins
        keys: list[KeyEvent] = []  # of the present moment
        while True:
            before_s, key = take.seconds, take.play(self.sampling, rng).key
            if key is not None:
                keys.append(key._replace(time_s=base_s + key.time_s))
            if take.ended or take.seconds > before_s:
                yield from keys
                keys = []
            if take.ended:
                base_s += take.seconds + PAUSE_S
                take = self.begin()

    def events(
        self,
        rng: np.random.Generator,
        *,
        prompt: ArrayLike = (),
        may_end: bool = True,
        course: NDArray[np.integer] | None = None,
    ) -> Iterator[tuple[int, float]]:
        """Events as they are decided, until the model ends the piece: (token, seconds of music after it).

        A prompt (T,) of tokens is read first and not yielded. See `Take.play`, and `generate` for the course (N, 3).
        """
        take = self.begin()
        take.hear(prompt)
        for event in self._played(take, rng, may_end, course):
            yield event.token, take.seconds

    def _played(
        self, take: Take, rng: np.random.Generator, may_end: bool, course: NDArray[np.integer] | None
    ) -> Iterator[Event]:
        """Events to the end, told as the course goes what ``told`` says nothing of."""
        kinds = steering.EDGES.keys() - {label.partition("=")[0] for label in self.told}
        row = -1
        while not take.ended:
            if course is not None and (now := int(take.seconds // steering.COURSE_S)) != row:
                row, labels = now, steering.course_labels(course, take.seconds)
                known = kinds & {label.partition("=")[0] for label in self.engine.labels}
                own = {label: weight for label, weight in labels.items() if label.partition("=")[0] in known}
                if known:
                    take.tell(own | dict(self.told), guidance=self.guidance)
            yield take.play(self.sampling, rng, may_end=may_end)

    def _perform(
        self,
        take: Take,
        seconds: float,
        rng: np.random.Generator,
        may_end: bool,
        progress: Progress | None,
        stop: Stop,
        border_s: float = 0.0,
        course: NDArray[np.integer] | None = None,
    ) -> Performance:
        """What is played from ``border_s`` on, and with it what sounds there."""
        check_length(seconds)
        # On the grid of steps, so that no note can begin within a hair of the end.
        until_s = (to_steps(border_s) + max(1, to_steps(seconds))) / STEPS_PER_S
        notes: list[codec.Note] = []
        tokens, playing = 0, self._played(take, rng, may_end, course)
        while not take.ended and take.seconds < until_s and not stop():
            notes += next(playing).finished
            tokens += 1
            if progress is not None:
                progress(max(0.0, min(take.seconds, until_s) - border_s))
        ended = take.ended
        notes += take.finish()
        piece = Piece.from_notes((on, min(off, until_s), pitch, velocity) for on, off, pitch, velocity in notes)
        return Performance(piece, border_s, ended, tokens)


def paced(
    events: Iterable[KeyEvent],
    ahead_s: float,
    *,
    clock: Callable[[], float] = time.monotonic,
    sleep: Callable[[float], None] = time.sleep,
) -> Iterator[KeyEvent]:
    """Events of a stream, each at most ``ahead_s`` before its time on the clock, which starts with the first.

    A player that plays each event at its time has so much in reserve, so that a slow moment is not heard.
    """
    started_s: float | None = None
    for event in events:
        started_s = clock() if started_s is None else started_s
        if (early_s := event.time_s - (clock() - started_s) - ahead_s) > 0:
            sleep(early_s)
        yield event


def check_length(seconds: float) -> None:
    """Raises RitornelloError unless a performance may be asked to last that long."""
    if not 0 < seconds <= MAX_MINUTES * 60:
        raise RitornelloError(f"a length of {seconds / 60:g} minutes; it must lie above 0 and up to {MAX_MINUTES:g}")


def load(
    model: str,
    *,
    engine: str = DEFAULT_ENGINE,
    sampling: Sampling | None = None,
    told: Mapping[str, float] | None = None,
    guidance: float = 1.0,
    threads: int | None = None,
    memory_bytes: int | None = None,
) -> Performer:
    """A performer with a bundled model's name or a checkpoint folder. Raises RitornelloError as `load_engine` does."""
    loaded = load_engine(model, engine, threads=threads, memory_bytes=memory_bytes)
    return Performer(loaded, sampling, told=told, guidance=guidance)


def _shifted(progress: Progress, start_s: float) -> Progress:
    return lambda done_s: progress(start_s + done_s)


def _followed(first: Performance, second: Performance, start_s: float) -> Performance:
    """Both, the second from ``start_s`` on."""
    a, b = first.piece, second.piece
    piece = Piece(
        np.concatenate([a.onset, b.onset + start_s]),
        np.concatenate([a.offset, b.offset + start_s]),
        np.concatenate([a.pitch, b.pitch]),
        np.concatenate([a.velocity, b.velocity]),
    )
    return Performance(piece, first.prompt_s, second.ended, first.tokens + second.tokens, first.pieces + 1)


def _spliced(played: Piece, performed: Piece, border_s: float) -> Piece:
    """``played`` up to the border, then ``performed``, whose notes from before the border are played ones gone on.

    Those keep the onset and velocity that they were played with. What was heard is decided on the grid as the encoder
    decides it: else a note could be there twice, or not at all.
    """
    border, struck, silent_s = to_steps(border_s), to_steps(played.onset), played.sounding_offset()
    # A key held beyond the border had been struck again before: its note ends there, or it would outlast the piece.
    offset = np.where(to_steps(played.offset) <= border, played.offset, silent_s)
    across = to_steps(performed.onset) < border
    for onset, end_s, pitch in zip(
        *(values[across] for values in (performed.onset, performed.offset, performed.pitch))
    ):
        same = (struck == to_steps(onset)) & (played.pitch == pitch)
        offset[same & (to_steps(silent_s) >= border)] = end_s
    before, new = struck < border, ~across
    down_s, up_s = played.pedals.T
    return Piece(
        np.concatenate([played.onset[before], performed.onset[new]]),
        np.concatenate([offset[before], performed.offset[new]]),
        np.concatenate([played.pitch[before], performed.pitch[new]]),
        np.concatenate([played.velocity[before], performed.velocity[new]]),
        np.stack([down_s, np.where(to_steps(up_s) <= border, up_s, np.maximum(down_s, border_s))], axis=1),
        played.title,
    )
