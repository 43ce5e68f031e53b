"""Folders of MIDI files, or lists of pieces, as sets of pieces with their features.

Every file is read once, in worker processes. What cannot be used is left out, listed and counted: unreadable files, and
pieces without notes.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ritornello import codec
from ritornello.errors import RitornelloError, counted
from ritornello.metrics.registry import FEATURES, extract
from ritornello.metrics.repetition import RepetitionCurve, autocorrelation, repetition_curve
from ritornello.midi import read_midi
from ritornello.notes import Piece
from ritornello.workers import Failure, map_items

Progress = Callable[[int, int, str], None]
Values = dict[str, NDArray[np.float64]]

LONGEST_LAG = 1024  # of a piece's tokens, in their autocorrelation
LEAST_PIECES = 4  # the reference is cut into two halves of 2
KEY_LENGTH_FEATURES = {name for name, feature in FEATURES.items() if feature.of_keys}


class Measured(NamedTuple):
    """One piece with its features, each (D,); ``plain`` are those of `KEY_LENGTH_FEATURES` without its pedals."""

    piece: Piece
    digest: bytes  # of the notes and pedals: equal for equal music, whatever the file
    values: Values
    plain: Values
    repetition: RepetitionCurve
    autocorrelation: NDArray[np.float64]  # (1 + LONGEST_LAG,) of its tokens


@dataclass(frozen=True)
class MusicSet:
    """The pieces of one folder, sorted by name, and which files were left out for which reason."""

    folder: Path  # of pieces that came from no folder, what they are called
    names: list[str]  # relative to the folder
    measured: list[Measured]
    skipped: list[tuple[str, str]]

    @property
    def has_pedals(self) -> bool:
        return any(len(measured.piece.pedals) for measured in self.measured)

    def values(self, feature: str, *, plain: bool) -> NDArray[np.float64]:
        """(N, D) of a feature; ``plain`` is whether pedals count as note lengths."""
        rows = [m.plain if plain and feature in m.plain else m.values for m in self.measured]
        return np.stack([row[feature] for row in rows])

    @property
    def repetition(self) -> list[RepetitionCurve]:
        return [measured.repetition for measured in self.measured]

    @property
    def autocorrelation(self) -> NDArray[np.float64]:
        """(N, 1 + LONGEST_LAG) of each piece's tokens by lag (PerceiverS, equation 9)."""
        return np.stack([measured.autocorrelation for measured in self.measured])

    @property
    def autocorrelation_size(self) -> NDArray[np.float64]:
        """(N,) of each piece the mean without signs over all lags from 1 on."""
        size: NDArray[np.float64] = np.abs(self.autocorrelation[:, 1:]).mean(axis=1)
        return size


def read_sets(
    folders: Sequence[Path], wanted: Sequence[str], *, jobs: int | None, progress: Progress | None
) -> list[MusicSet]:
    """Reads folders of MIDI files at any depth and measures their pieces.

    Raises:
        RitornelloError: for a folder that is none or cannot be read, without MIDI files, or with fewer than 4 pieces
            that can be used.
    """
    files = [(folder, name) for folder in folders for name in _midi_files(folder)]
    results: dict[Path, dict[str, Measured | Failure]] = {folder: {} for folder in folders}
    paths = [folder / name for folder, name in files]
    outcomes = map_items(partial(_read, wanted=tuple(wanted)), paths, workers=jobs)
    for done, ((folder, name), outcome) in enumerate(zip(files, outcomes), 1):
        results[folder][name] = outcome
        if progress is not None:
            progress(done, len(files), name)
    return [_collected(folder, results[folder]) for folder in folders]


def set_of(pieces: Sequence[Piece], wanted: Sequence[str], *, name: str) -> MusicSet:
    """Pieces that are here already as a set, in their order; those without notes are left out.

    Raises:
        RitornelloError: for fewer than 4 pieces with notes.
    """
    named = {f"{number} {piece.title}".strip(): piece for number, piece in enumerate(pieces, 1)}
    outcomes = map_items(partial(_measured, wanted=tuple(wanted)), named.values(), workers=1)
    return _collected(Path(name), dict(zip(named, outcomes)))


def same_music(reference: MusicSet, generated: MusicSet) -> list[tuple[str, str]]:
    """Names of each generated piece that equals a reference piece note for note, and of that piece before it."""
    known = {m.digest: name for name, m in zip(reference.names, reference.measured)}
    pairs = zip(generated.names, generated.measured)
    return [(known[m.digest], name) for name, m in pairs if m.digest in known]


def _midi_files(folder: Path) -> list[str]:
    if not folder.is_dir():
        raise RitornelloError(f"{folder}: is not a folder; give a folder of MIDI files")

    def refuse(error: OSError) -> None:
        raise RitornelloError(f"{error.filename}: cannot be read ({error.strerror}); ask for the right to read it")

    below = (Path(top, name) for top, _, names in os.walk(folder, onerror=refuse) for name in names)
    names = sorted(path.relative_to(folder).as_posix() for path in below if path.suffix.lower() in (".mid", ".midi"))
    if not names:
        raise RitornelloError(f"{folder}: holds no .mid or .midi files; give another folder")
    if len(names) < LEAST_PIECES:
        raise RitornelloError(
            f"{folder}: too few MIDI files ({len(names)}); a comparison needs at least {LEAST_PIECES}"
        )
    return names


def _read(path: Path, wanted: tuple[str, ...]) -> Measured:
    try:
        return _measured(read_midi(path), wanted)
    except RitornelloError as error:
        raise RitornelloError(str(error).removeprefix(f"{path}: ")) from None


def _measured(piece: Piece, wanted: tuple[str, ...]) -> Measured:
    """Its features. Raises RitornelloError where it has none."""
    if not len(piece):
        raise RitornelloError("holds no notes")
    values = _arrays(extract(piece, wanted))
    of_keys = [name for name in wanted if name in KEY_LENGTH_FEATURES]
    plain = _arrays(extract(piece.without_pedal(), of_keys)) if len(piece.pedals) else {}
    tokens = autocorrelation(codec.encode(piece), LONGEST_LAG)
    return Measured(piece, _digest(piece), values, plain, repetition_curve(piece), tokens)


def _arrays(features: Mapping[str, ArrayLike]) -> Values:
    return {name: np.asarray(value, np.float64).reshape(-1) for name, value in features.items()}


def _digest(piece: Piece) -> bytes:
    whole_us = [np.rint(times * 1e6).astype("<i8") for times in (piece.onset, piece.offset, piece.pedals)]
    data = b"|".join(part.tobytes() for part in (*whole_us, piece.pitch, piece.velocity))
    return hashlib.blake2b(data, digest_size=16).digest()


def _collected(folder: Path, results: Mapping[str, Measured | Failure]) -> MusicSet:
    usable = {name: result for name, result in results.items() if isinstance(result, Measured)}
    skipped = [(name, result.reason) for name, result in results.items() if isinstance(result, Failure)]
    if len(usable) < LEAST_PIECES:
        first = f"; the first that cannot: {skipped[0][0]}: {skipped[0][1]}" if skipped else "; give more"
        raise RitornelloError(
            f"{folder}: {len(usable)} of {counted(len(results), 'pieces')} can be used, and a comparison needs at "
            f"least {LEAST_PIECES}{first}"
        )
    return MusicSet(folder, list(usable), list(usable.values()), skipped)
