"""Playing: a loaded model as a stream of notes in time, from nothing or from a piece that someone played."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from itertools import count
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec.vocabulary import (
    DEFAULT_VELOCITY_BIN,
    MAX_SHIFT_STEPS,
    N_PITCHES,
    STEPS_PER_S,
    bin_velocity,
)
from ritornello.engines import DEFAULT_ENGINE, Engine, load_engine
from ritornello.errors import RitornelloError
from ritornello.notes import MAX_SECONDS, Piece
from ritornello.sampling import Sampling

MAX_MINUTES = 24 * 60.0
PAUSE_S = 2.0
"""silence between a piece that the model has ended and the next"""
OPENING_S, REST_S, HELD_S = 8.0, 9.0, 16.0
"""how long nothing may happen before the first note, while no key sounds and while one does: what ASAP's training
performances hold (99 % begin within 8.4 s; the longest rest is of 9.0 s, the longest wait on held keys of 16.3 s)"""

Progress = Callable[[float], None]


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
        """What was played alone: the notes struck after the prompt's last step, which is second 0 now."""
        piece = self.piece
        new = piece.onset > self.prompt_s + 0.5 / STEPS_PER_S
        onset, offset = piece.onset[new] - self.prompt_s, piece.offset[new] - self.prompt_s
        return Piece(onset, offset, piece.pitch[new], piece.velocity[new], title=piece.title)


class KeyEvent(NamedTuple):
    """A key struck, or released where the velocity is 0 as in MIDI."""

    time_s: float
    pitch: int
    velocity: int


class Performer:
    """Plays with one engine.

    Args:
        engine: see `ritornello.engines.Engine`.
        sampling: how events are drawn.
    """

    def __init__(self, engine: Engine, sampling: Sampling | None = None) -> None:
        self.engine = engine
        self.sampling = sampling or Sampling()

    def generate(
        self,
        *,
        seconds: float,
        seed: int,
        may_end: bool = True,
        again: bool = False,
        progress: Progress | None = None,
    ) -> Performance:
        """A new piece of ``seconds`` at most; the same seed gives the same piece on the same engine.

        It is shorter if the model ends it and ``may_end`` allows that; with ``again`` another piece follows then,
        `PAUSE_S` later, until the time is over.

        Raises:
            RitornelloError: for an absurd length.
        """
        rng = np.random.default_rng(seed)
        performance = self._perform(np.zeros(0, np.uint16), seconds, rng, may_end, progress)
        parts, start_s = [performance], performance.piece.seconds + PAUSE_S
        while again and parts[-1].ended and start_s < seconds:
            later = None if progress is None else _shifted(progress, start_s)
            parts.append(self._perform(np.zeros(0, np.uint16), seconds - start_s, rng, may_end, later))
            performance = _followed(performance, parts[-1], start_s)
            start_s += parts[-1].piece.seconds + PAUSE_S
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
    ) -> Performance:
        """``piece`` up to ``prompt_s`` (None: all of it), and up to ``seconds`` more that follow it.

        The prompt's notes and pedal stay as they were played; a note that sounds across the border is released where
        the model lets it go.

        Raises:
            RitornelloError: if the prompt has no notes, or for an absurd length.
        """
        if prompt_s is not None and not prompt_s > 0:
            raise RitornelloError(f"a prompt of {prompt_s:g} seconds holds no music; give a positive number")
        tokens = codec.encode(piece)[:-1]
        if prompt_s is not None:
            tokens = tokens[codec.steps_of(tokens) < round(min(prompt_s, MAX_SECONDS) * STEPS_PER_S)]
        if not np.any(tokens < codec.NOTE_OFF):
            first = f"; its first note is at {piece.onset[0]:.2f} s" if len(piece) else ""
            raise RitornelloError(f"the prompt has no notes{first}; give a piece with notes, or more of it")
        performance = self._perform(tokens, seconds, np.random.default_rng(seed), may_end, progress)
        return Performance(
            _spliced(piece, performance.piece, performance.prompt_s),
            performance.prompt_s,
            performance.ended,
            performance.tokens,
        )

    def stream(
        self,
        *,
        seed: int,
        prompt: NDArray[np.integer] | None = None,
        ahead_s: float | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] = time.sleep,
    ) -> Iterator[KeyEvent]:
        """Keys as they are struck and released, without end, in order of their times: what a live player sends on.

        Where the model ends a piece another follows `PAUSE_S` later. Memory does not grow.

        Args:
            seed: the same seed gives the same music on the same engine.
            prompt: tokens (T,) to go on from; times count from its end.
            ahead_s: how far the music may run ahead of the clock, which starts with the first event: further ahead,
                the stream sleeps. A player that plays each event at its time has so much in reserve. None: never waits.
            clock: the time in seconds.
            sleep: what waits.
        """
        rng = np.random.default_rng(seed)
        started_s: float | None = None
        base_s = 0.0  # when the present piece begins
        for number in count():
            given = np.asarray(prompt if number == 0 and prompt is not None else [], np.int64)
            before_s = codec.seconds_of(given)
            velocities = given[(given >= codec.VELOCITY) & (given < codec.END)]
            velocity = bin_velocity(int(velocities[-1]) - codec.VELOCITY if len(velocities) else DEFAULT_VELOCITY_BIN)
            now_s = base_s
            for token, piece_s in self.events(rng, prompt=given):
                now_s = base_s + piece_s - before_s
                if codec.VELOCITY <= token < codec.END:
                    velocity = bin_velocity(token - codec.VELOCITY)
                if token >= codec.SHIFT:
                    continue
                started_s = clock() if started_s is None else started_s
                if ahead_s is not None and (early_s := now_s - (clock() - started_s) - ahead_s) > 0:
                    sleep(early_s)
                yield KeyEvent(now_s, token % N_PITCHES, velocity if token < codec.NOTE_OFF else 0)
            base_s = now_s + PAUSE_S

    def events(
        self, rng: np.random.Generator, *, prompt: NDArray[np.integer] | None = None, may_end: bool = True
    ) -> Iterator[tuple[int, float]]:
        """Events as they are decided, until the model ends the piece: (token, seconds of music after it).

        A prompt (T,) of tokens is read first and not yielded. END is not drawn before a note was; without ``may_end``
        it never is. Rests are no longer than `OPENING_S`, `REST_S` and `HELD_S`: whatever draws safely would wait for
        ever, since at any moment waiting on is likelier than any one key.
        """
        grammar, session = codec.Grammar(), self.engine.begin()
        given = np.zeros(0, np.int64) if prompt is None else np.asarray(prompt, np.int64)
        for token in given:
            grammar.advance(int(token))
        at_steps = codec.steps_of(given)
        steps = int(at_steps[-1]) if len(given) else 0
        has_notes = bool(np.any(given < codec.NOTE_OFF))
        key_step = int(at_steps[given < codec.SHIFT].max(initial=0))  # of the last strike or release
        logits = session.read(np.r_[codec.START, given])
        while True:
            legal = grammar.legal()
            legal[codec.END] &= may_end and has_notes
            most_s = OPENING_S if not has_notes else HELD_S if grammar.sounding.any() else REST_S
            left = max(0, key_step + round(most_s * STEPS_PER_S) - steps)
            legal[codec.SHIFT + min(left, MAX_SHIFT_STEPS) : codec.VELOCITY] = False
            token = self.sampling.draw(logits, legal, rng)
            grammar.advance(token)
            has_notes = has_notes or token < codec.NOTE_OFF
            if token < codec.SHIFT:
                key_step = steps
            elif token < codec.VELOCITY:
                steps += token - codec.SHIFT + 1
            yield token, steps / STEPS_PER_S
            if token == codec.END:
                return
            logits = session.read(np.array([token]))

    def _perform(
        self,
        prompt: NDArray[np.uint16],
        seconds: float,
        rng: np.random.Generator,
        may_end: bool,
        progress: Progress | None,
    ) -> Performance:
        check_length(seconds)
        prompt_s = codec.seconds_of(prompt)
        # On the grid of steps, so that no note can begin within a hair of the end.
        until_s = (round(prompt_s * STEPS_PER_S) + max(1, round(seconds * STEPS_PER_S))) / STEPS_PER_S
        tokens: list[int] = []
        ended = False
        for token, now_s in self.events(rng, prompt=prompt, may_end=may_end):
            tokens.append(token)
            ended = token == codec.END
            if progress is not None:
                progress(min(now_s, until_s) - prompt_s)
            if now_s >= until_s:
                break
        piece = codec.decode(np.r_[prompt, np.array(tokens, np.uint16)])
        closed = replace(piece, offset=np.minimum(piece.offset, until_s))
        return Performance(closed, prompt_s, ended, len(tokens))


def check_length(seconds: float) -> None:
    """Raises RitornelloError unless a performance may be asked to last that long."""
    if not 0 < seconds <= MAX_MINUTES * 60:
        raise RitornelloError(f"a length of {seconds / 60:g} minutes; it must lie above 0 and up to {MAX_MINUTES:g}")


def load(
    model: str, *, engine: str = DEFAULT_ENGINE, sampling: Sampling | None = None, threads: int | None = None
) -> Performer:
    """A performer with a bundled model's name or a checkpoint folder. Raises RitornelloError as `load_engine` does."""
    return Performer(load_engine(model, engine, threads=threads), sampling)


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
        np.concatenate([a.pedals, b.pedals + start_s]),
        a.title,
    )
    return Performance(piece, first.prompt_s, second.ended, first.tokens + second.tokens, first.pieces + 1)


def _spliced(played: Piece, performed: Piece, border_s: float) -> Piece:
    """The notes of ``played`` that fall silent by the border, as they were; everything else from ``performed``.

    Which those are is decided on the grid as the encoder decides it: else a note could be in both, or in neither.
    """
    border = round(border_s * STEPS_PER_S)
    silent_s = played.sounding_offset()
    before = np.maximum(_nearest_step(silent_s), _nearest_step(played.onset) + 1) <= border
    after = _nearest_step(performed.offset) > border
    # A key held beyond the border had been struck again before: its note ends there, or it would outlast the piece.
    let_go_s = np.where(_nearest_step(played.offset) <= border, played.offset, silent_s)
    down_s, up_s = played.pedals.T
    return Piece(
        np.concatenate([played.onset[before], performed.onset[after]]),
        np.concatenate([let_go_s[before], performed.offset[after]]),
        np.concatenate([played.pitch[before], performed.pitch[after]]),
        np.concatenate([played.velocity[before], performed.velocity[after]]),
        np.stack([down_s, np.where(_nearest_step(up_s) <= border, up_s, np.maximum(down_s, border_s))], axis=1),
        played.title,
    )


def _nearest_step(seconds: NDArray[np.float64]) -> NDArray[np.int64]:
    return np.floor(seconds * STEPS_PER_S + 0.5).astype(np.int64)
