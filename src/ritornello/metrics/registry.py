"""Every feature by its name: what it is called, which preset it belongs to, in which unit, and the function behind it.

A feature is a function of a piece in any file of this folder, declared by `feature` above it; nothing else names it.

Presets: ``perceivers`` (the thirteen of arXiv 2411.08307, in the paper's words), ``playing`` and ``structure`` (what it
leaves out), ``mgeval`` (the nine whole-piece features of that program, as it computes them, under its names).
"""

from __future__ import annotations

import pkgutil
from collections.abc import Callable, Iterable
from functools import lru_cache
from importlib import import_module
from pathlib import Path
from typing import NamedTuple, TypeVar

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.notes import Piece

Value = float | NDArray[np.float64]
Function = TypeVar("Function", bound=Callable[[Piece], Value])
Floats = NDArray[np.float64]
Counts = NDArray[np.int64]


def shares(counts: NDArray[np.number]) -> Floats:
    """Counts divided by their sum; zeros stay zeros."""
    total = counts.sum()
    return counts / total if total else np.zeros(counts.shape)


def moves(classes: NDArray[np.integer], n_classes: int) -> Counts:
    """(n, n) counts of each step from one entry of ``classes`` (N,) to the next; rows are what it moves from."""
    pairs = classes[:-1].astype(np.int64) * n_classes + classes[1:]
    return np.bincount(pairs, minlength=n_classes**2).reshape(n_classes, n_classes)


def microseconds(times_s: Floats) -> Counts:
    """Times as whole numbers, in which ties are ties."""
    return np.rint(times_s * 1e6).astype(np.int64)


@lru_cache(maxsize=1)  # many features of a piece ask one after another
def duration_us(piece: Piece) -> int:
    """From the first onset until the last note falls silent, the pedal applied; 0 without notes."""
    if not len(piece):
        return 0
    return int(microseconds(piece.sounding_offset().max() - piece.onset[:1])[0])


class Feature(NamedTuple):
    """One musical feature; ``function`` holds its definition."""

    name: str
    preset: str
    unit: str  # of its entries
    about: str  # in plain words
    function: Callable[[Piece], Value]
    of_keys: bool  # it reads how long keys are held: a pedal turned into lengths changes it, and no other


_declared: list[Feature] = []


def feature(name: str, preset: str, unit: str, about: str, *, of_keys: bool = False) -> Callable[[Function], Function]:
    """Declares that a function is a feature; see `Feature`."""

    def declared(function: Function) -> Function:
        _declared.append(Feature(name, preset, unit, about, function, of_keys))
        return function

    return declared


# In the order of tables, which is the paper's; files and presets that are not named here follow.
_FILES = ("pitches", "durations", "segments", "expression", "repetition", "structure")
_PRESETS = ("perceivers", "playing", "structure", "mgeval")
for _name in dict.fromkeys((*_FILES, *(file.name for file in pkgutil.iter_modules([str(Path(__file__).parent)])))):
    import_module(f"{__package__}.{_name}")
PRESETS = tuple(dict.fromkeys((*_PRESETS, *(feature.preset for feature in _declared))))
FEATURES = {feature.name: feature for preset in PRESETS for feature in _declared if feature.preset == preset}
STANDARD = tuple(feature.name for feature in FEATURES.values() if feature.preset != "mgeval" and not feature.of_keys)
"""what is compared unless something else is asked for: where one side has no pedals, as models write them, key lengths
are turned into sounding lengths and would count twice"""


def select(wanted: Iterable[str] | None = None) -> list[Feature]:
    """The features that ``wanted`` names, alone or by preset, each once and in the registry's order; None for all.

    Raises:
        RitornelloError: for a name that is neither a feature nor a preset.
    """
    names = set(PRESETS if wanted is None else wanted)
    for name in sorted(names - FEATURES.keys() - set(PRESETS)):
        raise RitornelloError(
            f"feature {name!r} is unknown; there are {', '.join(FEATURES)}, and the presets {', '.join(PRESETS)}"
        )
    return [feature for feature in FEATURES.values() if {feature.name, feature.preset} & names]


def extract(piece: Piece, wanted: Iterable[str] | None = None) -> dict[str, Value]:
    """Name -> value of every wanted feature of one piece (see `select`); all values are finite, whatever the piece."""
    return {feature.name: feature.function(piece) for feature in select(wanted)}
