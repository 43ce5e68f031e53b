"""Ritornello: complete piano performances, modelled in a memory of fixed size, and new ones played with it.

>>> import ritornello
>>> performer = ritornello.load("base")                                     # doctest: +SKIP
>>> performer.generate(seconds=60, seed=1).piece.write("piece.mid")         # doctest: +SKIP
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.midi import read_midi
from ritornello.notes import Piece

if TYPE_CHECKING:
    from ritornello.performing import Performer

__version__ = "0.1.0"
__all__ = ["HorizonSchedule", "Piece", "RitornelloError", "codec", "load", "read_midi"]


def load(model: str, **options: Any) -> Performer:
    """A performer with a bundled model's name or a checkpoint folder; see `ritornello.performing.load`."""
    from ritornello.performing import load as load_performer

    return load_performer(model, **options)
