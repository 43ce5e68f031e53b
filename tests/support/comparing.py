"""Pieces' features compared one by one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from ritornello.metrics.comparison import Resampling, compare_feature

Pieces = Sequence[Mapping[str, ArrayLike]]


def compare(reference: Pieces, generated: Pieces, rng: np.random.Generator, **how: int) -> dict[str, dict[str, Any]]:
    """The figures of every feature, all under one resampling, of which ``how`` says how many repetitions."""
    drawn = Resampling.draw(rng, reference=len(reference), generated=len(generated), **how)

    def values(pieces: Pieces, name: str) -> np.ndarray:
        return np.stack([np.asarray(piece[name], np.float64).reshape(-1) for piece in pieces])

    return {name: compare_feature(values(reference, name), values(generated, name), drawn) for name in reference[0]}
