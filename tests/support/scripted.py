"""An engine that plays what it is told, and what pieces are compared by."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, settings

from ritornello import codec
from ritornello.notes import Piece
from ritornello.sampling import Sampling
from ritornello.take import Event, Take

STEP_S = 0.01
ROUNDING_S = 0.005 + 1e-9  # how far a note moves on its way to the grid
RELAXED = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # on a busy machine


def shift(steps: int) -> int:
    return codec.SHIFT + steps - 1


class Greedy(Sampling):
    """Always the likeliest of all legal events, whatever the generator gives: nothing here is drawn."""

    def draw(self, logits: np.ndarray, legal: np.ndarray, rng: np.random.Generator) -> int:
        return int(np.where(legal, logits, -np.inf).argmax())


class Scripted:
    """An engine that wants certain events, in order, and then whatever ``rest`` weighs; it keeps what it read."""

    name, trained_on, motifs, labels = "scripted", {}, None, ()

    def __init__(self, wanted: list[int], rest: np.ndarray | None = None) -> None:
        self.wanted = wanted
        self.rest = np.zeros(codec.N_EVENTS) if rest is None else rest
        self.read_tokens: list[int] = []

    def begin(self) -> Scripted:
        self.read_tokens, self.left = [], list(self.wanted)
        return self

    def tell(self, labels: np.ndarray) -> None:
        assert not len(labels)

    def read(self, tokens: np.ndarray) -> np.ndarray:
        assert len(tokens)
        self.read_tokens += tokens.tolist()
        if not self.left:
            return self.rest.astype(np.float32)
        logits = np.zeros(codec.N_EVENTS, np.float32)
        logits[self.left.pop(0)] = 1000
        return logits


def final_s(take: Take, keys: dict[int, float], event: Event | None = None) -> float:
    """Up to when the notes of a take are over; ``keys`` holds when those that sound were struck, and follows events."""
    if event is not None and event.key is not None:
        keys.pop(event.key.pitch, None)
        if event.key.velocity:
            keys[event.key.pitch] = event.key.time_s
    return min([take.seconds, *keys.values()])


def notes(piece: Piece) -> list[tuple[float, float, int, int]]:
    return list(zip(piece.onset.tolist(), piece.offset.tolist(), piece.pitch.tolist(), piece.velocity.tolist()))


def same(one: Piece, other: Piece) -> bool:
    return notes(one) == notes(other) and one.pedals.tolist() == other.pedals.tolist()


def an_ending_engine() -> Scripted:
    """Strikes a key, holds it for half a second, lets it go and ends; then the same again."""
    return Scripted([codec.VELOCITY + 9, 60, shift(50), codec.NOTE_OFF + 60, codec.END])
