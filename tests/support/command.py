"""The command ``ritornello`` in the process of the tests: what it left behind, and what is given to it."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from ritornello.notes import Piece


class Outcome(NamedTuple):
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def figures(self) -> dict[str, Any]:
        return json.loads(self.out)


Run = Callable[..., Outcome]

SIZES = {"train": (30, 41, 25), "validation": (33, 20), "test": (12,)}
"""Notes of each song of the fixtures `songs` and `corpus`, by split."""


def song(notes: int) -> Piece:
    """Two notes a second, a quarter of a second each, all equally loud: 4 x notes + 1 tokens (see `tokens_of`)."""
    return Piece.from_notes([(i / 2, i / 2 + 0.25, 60 + i % 7, 64) for i in range(notes)])


def tokens_of(notes: int) -> int:
    """A velocity; for each note strike, shift and release; a shift between two notes; END."""
    return 1 + 3 * notes + (notes - 1) + 1


def assert_refused(outcome: Outcome, *words: object) -> None:
    """One line that names what it is about, and nothing else; code 2."""
    assert outcome.err.startswith("error: "), outcome
    assert outcome.err.endswith("\n")
    assert outcome.err.count("\n") == 1, outcome.err
    assert outcome.code == 2
    assert outcome.out == ""
    for word in words:
        assert str(word) in outcome.err, f"{word} is not in: {outcome.err}"


def assert_empty(folder: Path) -> None:
    assert sorted(folder.rglob("*")) == []
