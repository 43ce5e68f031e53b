"""How far a piece is moved before it is read: transposed and stretched, drawn anew each epoch."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ritornello import codec
from ritornello.errors import RitornelloError

LOWEST_KEY, HIGHEST_KEY = 21, 108  # of a piano


@dataclass(frozen=True)
class Augmentation:
    """How far a piece is moved before it is read, drawn anew each epoch."""

    semitones: int = 0
    """transposed by up to this many semitones either way, within the piano's keys"""
    stretch: float = 0.0
    """time multiplied by a factor between 1 / (1 + stretch) and 1 + stretch, uniform on a logarithmic scale"""

    def __post_init__(self) -> None:
        if not 0 <= self.semitones <= 24:
            raise RitornelloError(f"augmentation semitones is {self.semitones}; it must lie between 0 and 24")
        if not 0 <= self.stretch <= 1:
            raise RitornelloError(f"augmentation stretch is {self.stretch}; it must lie between 0 and 1")

    def __call__(self, tokens: NDArray[np.uint16], rng: np.random.Generator) -> NDArray[np.uint16]:
        """A moved copy of a piece's tokens (T,) -> (T',)."""
        factor = math.exp(rng.uniform(-1, 1) * math.log1p(self.stretch))
        if factor != 1:
            tokens = codec.encode(codec.decode(tokens).stretched(factor))
        return transposed(tokens, _draw_semitones(tokens, self.semitones, rng))


def transposed(tokens: NDArray[np.uint16], semitones: int) -> NDArray[np.uint16]:
    """Tokens (T,) with every pitch moved; no pitch may leave 0-127."""
    is_note = tokens < codec.SHIFT
    return np.where(is_note, tokens.astype(np.int64) + semitones, tokens).astype(np.uint16)


def _draw_semitones(tokens: NDArray[np.uint16], most: int, rng: np.random.Generator) -> int:
    pitches = tokens[tokens < codec.NOTE_OFF].astype(int)
    if not len(pitches):
        return 0
    low = max(-most, min(0, LOWEST_KEY - int(pitches.min())))
    high = min(most, max(0, HIGHEST_KEY - int(pitches.max())))
    return int(rng.integers(low, high + 1))
