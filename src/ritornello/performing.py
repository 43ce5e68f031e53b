"""Playing: a loaded model as a stream of notes in time, from nothing or from a piece that someone played."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.codec.vocabulary import STEPS_PER_S
from ritornello.engines import Engine, load_engine
from ritornello.errors import RitornelloError
from ritornello.notes import MAX_SECONDS, Piece
from ritornello.sampling import Sampling

MAX_MINUTES = 24 * 60.0

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
        self, *, seconds: float, seed: int, may_end: bool = True, progress: Progress | None = None
    ) -> Performance:
        """A new piece of ``seconds`` at most; the same seed gives the same piece.

        It is shorter if the model ends it and ``may_end`` allows that.

        Raises:
            RitornelloError: for an absurd length.
        """
        return self._perform(np.zeros(0, np.uint16), seconds, seed, may_end, progress)

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
        performance = self._perform(tokens, seconds, seed, may_end, progress)
        return Performance(
            _spliced(piece, performance.piece, performance.prompt_s),
            performance.prompt_s,
            performance.ended,
            performance.tokens,
        )

    def stream(
        self, *, seed: int, prompt: NDArray[np.integer] | None = None, may_end: bool = True
    ) -> Iterator[tuple[int, float]]:
        """Events as they are decided, until the model ends the piece: (token, seconds of music after it).

        Feed them to a `codec.StreamDecoder` for notes. A prompt (T,) of tokens is read first and not yielded. Without
        ``may_end`` the stream has no end: END is never drawn.
        """
        rng = np.random.default_rng(seed)
        grammar, session = codec.Grammar(), self.engine.begin()
        given = np.zeros(0, np.int64) if prompt is None else np.asarray(prompt, np.int64)
        for token in given:
            grammar.advance(int(token))
        steps = int(codec.steps_of(given)[-1]) if len(given) else 0
        logits = session.read(np.r_[codec.START, given])
        while True:
            legal = grammar.legal()
            legal[codec.END] &= may_end
            token = self.sampling.draw(logits, legal, rng)
            grammar.advance(token)
            if codec.SHIFT <= token < codec.VELOCITY:
                steps += token - codec.SHIFT + 1
            yield token, steps / STEPS_PER_S
            if token == codec.END:
                return
            logits = session.read(np.array([token]))

    def _perform(
        self, prompt: NDArray[np.uint16], seconds: float, seed: int, may_end: bool, progress: Progress | None
    ) -> Performance:
        check_length(seconds)
        prompt_s = codec.seconds_of(prompt)
        # On the grid of steps, so that no note can begin within a hair of the end.
        until_s = (round(prompt_s * STEPS_PER_S) + max(1, round(seconds * STEPS_PER_S))) / STEPS_PER_S
        tokens: list[int] = []
        ended = False
        for token, now_s in self.stream(seed=seed, prompt=prompt, may_end=may_end):
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


def load(model: str, *, engine: str = "torch", sampling: Sampling | None = None) -> Performer:
    """A performer with a bundled model's name or a checkpoint folder. Raises RitornelloError as `load_engine` does."""
    return Performer(load_engine(model, engine), sampling)


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
