"""Which MIDI files become a corpus: those of a folder at any depth, or of a CSV with the columns of MAESTRO."""

from __future__ import annotations

import csv as csv_files
import os
from pathlib import Path
from typing import NamedTuple

from ritornello.corpus.shards import SPLITS
from ritornello.errors import RitornelloError

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")  # and each with .gz behind it
SPLIT_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}
SPLIT_NAMES |= {split: split for split in SPLITS}
CSV_COLUMNS = ("canonical_composer", "canonical_title", "midi_filename")


class Source(NamedTuple):
    """One MIDI file to read, and what is known about it. ``split`` is empty where the seed shall choose."""

    path: str
    name: str  # relative to the folder or CSV
    composer: str
    title: str
    split: str


def list_folder(folder: Path) -> list[Source]:
    """The MIDI files below ``folder``, sorted by name. Raises RitornelloError if there are none."""
    if not folder.is_dir():
        raise RitornelloError(f"{folder}: is not a folder; give a folder of MIDI files, or a CSV with --csv")

    def refuse(error: OSError) -> None:
        raise RitornelloError(f"{error.filename}: cannot be read ({error.strerror}); ask for the right to read it")

    below = (Path(top, name) for top, _, names in os.walk(folder, onerror=refuse) for name in names)
    paths = sorted(path for path in below if is_midi(path))
    if not paths:
        raise RitornelloError(f"{folder}: holds no .mid or .midi files; give another folder")
    names = [path.relative_to(folder) for path in paths]
    splits = [SPLIT_NAMES.get(name.parts[0].lower(), "") if len(name.parts) > 1 else "" for name in names]
    if any(splits) and not all(splits):
        stray = names[splits.index("")]
        raise RitornelloError(f"{folder}: {stray} lies outside the split folders {_listed(splits)}; move it into one")
    return [_from_folder(path, name, split=split) for path, name, split in zip(paths, names, splits, strict=True)]


def is_midi(path: Path) -> bool:
    """Whether a file's name is that of a MIDI file."""
    return path.name.lower().removesuffix(".gz").endswith(MIDI_SUFFIXES)


def _from_folder(path: Path, name: Path, *, split: str) -> Source:
    plain = name.with_suffix("") if name.suffix.lower() == ".gz" else name
    parts = plain.with_suffix("").parts[1 if split else 0 :]
    composer = parts[0] if len(parts) > 1 else ""
    return Source(str(path), name.as_posix(), composer, "/".join(parts[1:] or parts), split)


def list_csv(csv: Path, folder: Path) -> list[Source]:
    """The rows of a CSV with MAESTRO's columns. Raises RitornelloError if it cannot be read or is incomplete."""
    try:
        with csv.open(encoding="utf-8-sig", newline="") as file:
            table = csv_files.DictReader(file)
            columns = table.fieldnames or []
            rows = list(table)
    except OSError as error:
        raise RitornelloError(f"{csv}: cannot be read ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, csv_files.Error):
        raise RitornelloError(f"{csv}: is not a CSV file in UTF-8; save it as one") from None
    missing = [column for column in CSV_COLUMNS if column not in columns]
    if missing:
        raise RitornelloError(f"{csv}: has no column {', '.join(missing)}; it needs {', '.join(CSV_COLUMNS)}")
    if not rows:
        raise RitornelloError(f"{csv}: has no rows; give a table with one row for each performance")
    return [_from_row(row, csv, folder, line, has_splits="split" in columns) for line, row in enumerate(rows, 2)]


def _from_row(row: dict[str, str | None], csv: Path, folder: Path, line: int, *, has_splits: bool) -> Source:
    name = (row["midi_filename"] or "").strip()
    if not name:
        raise RitornelloError(f"{csv}: row {line} has no midi_filename; complete it or take the row out")
    split = SPLIT_NAMES.get((row["split"] or "").strip().lower(), "") if has_splits else ""
    if has_splits and not split:
        raise RitornelloError(f"{csv}: row {line} has split {row['split']!r}; use {', '.join(SPLITS)}")
    path = csv.parent / name
    if not path.exists() and (folder / name).exists():
        path = folder / name
    return Source(str(path), name, row["canonical_composer"] or "", row["canonical_title"] or "", split)


def names_splits(sources: list[Source]) -> bool:
    """Whether the source names the splits itself."""
    return bool(sources[0].split)


def _listed(splits: list[str]) -> str:
    return ", ".join(split for split in SPLITS if split in splits)


def licence_files(folder: Path) -> list[str]:
    """The names of licences that lie in ``folder``, sorted."""
    return sorted(path.name for path in folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))
