"""Fixtures: the real performances, and small made-up pieces."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np
import pytest

from ritornello.notes import Piece


@pytest.fixture(scope="session")
def asap() -> Path:
    """The folder of the ASAP performances; tests that need it are skipped where it is not."""
    folder = Path(os.environ.get("RITORNELLO_ASAP", Path(__file__).parents[2] / "shared/data/asap"))
    if not (folder / "asap-performances.csv").is_file():
        pytest.skip("the ASAP performances are not here; set RITORNELLO_ASAP to their folder")
    return folder


def made_up_piece(rng: np.random.Generator, *, notes: int = 200, seconds: float = 60.0) -> Piece:
    """Random notes with a pedal: no music, but every kind of event."""
    onset = np.sort(rng.uniform(0, seconds, notes))
    offset = onset + rng.exponential(0.4, notes)
    down = np.sort(rng.uniform(0, seconds, 10))
    pedals = np.stack([down, down + rng.exponential(1.0, 10)], axis=1)
    return Piece(onset, offset, rng.integers(30, 90, notes), rng.integers(1, 128, notes), pedals)
