"""Which MIDI files become a corpus: those of a folder or an archive, or of a table with the columns of MAESTRO.

All are streams: at any moment one folder's names, one row or one file are in memory, never a list of all.
"""

from __future__ import annotations

import csv as csv_files
import os
import tarfile
import zlib
from collections.abc import Iterator
from lzma import LZMAError
from pathlib import Path, PurePath
from typing import Any, NamedTuple

from ritornello.corpus.shards import SPLITS
from ritornello.errors import RitornelloError, needing
from ritornello.midi.reading import MAX_BYTES

MIDI_SUFFIXES = (".mid", ".midi", ".kar", ".rmi")  # and each with .gz behind it
TAR_SUFFIXES = (".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tar.xz")
PARQUET_SUFFIXES = (".parquet",)
SPLIT_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}
SPLIT_NAMES |= {split: split for split in SPLITS}
CSV_COLUMNS = ("canonical_composer", "canonical_title", "midi_filename")
PARQUET_ROWS = 64  # read at a time


class Source(NamedTuple):
    """One MIDI file to read, and what is known about it. ``split`` is empty where the seed shall choose."""

    data: str | bytes | None  # the file's path, or what it holds; None for a table's row that holds nothing
    name: str  # relative to the folder, archive or CSV
    composer: str
    title: str
    split: str


def sources_in(source: Path, csv: Path | None) -> Iterator[Source]:
    """The MIDI files of a CSV, a folder at any depth (sorted), a tar archive or a Parquet file (in their order).

    Raises:
        RitornelloError: if there are none, the source cannot be read, or some have a split and others have not.
    """
    if csv is not None:
        listed = _of_csv(csv, source)
    elif source.is_dir():
        listed = (_named(str(source / name), name) for name in files_below(source, is_midi))
    elif has_ending(source, TAR_SUFFIXES):
        listed = _of_tar(source)
    elif has_ending(source, PARQUET_SUFFIXES):
        listed = _of_parquet(source)
    else:
        raise RitornelloError(
            f"{source}: is not a folder; give a folder of MIDI files, a .tar or .parquet file, or a CSV with --csv"
        )
    first: Source | None = None
    for item in listed:
        first = first or item
        if bool(item.split) != bool(first.split):
            inside, outside = (item, first) if item.split else (first, item)
            raise RitornelloError(
                f"{source}: {outside.name} lies outside the split folders in which {inside.name} is; move it into one"
            )
        yield item
    if first is None:
        raise RitornelloError(f"{csv or source}: holds no .mid or .midi files; give another source")


def is_stream(source: Path, csv: Path | None) -> bool:
    """Whether listing the source reads all of it."""
    return csv is None and not source.is_dir()


def files_below(folder: Path, wanted: Any) -> Iterator[PurePath]:
    """Files at any depth whose path meets ``wanted``, relative to ``folder``, in the order of their sorted paths."""
    try:
        with os.scandir(folder) as entries:
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError as error:
        raise RitornelloError(f"{error.filename}: cannot be read ({error.strerror}); ask for the right") from None
    for name, is_folder in found:
        if is_folder:
            yield from (PurePath(name, below) for below in files_below(folder / name, wanted))
        elif wanted(PurePath(name)):
            yield PurePath(name)


def has_ending(path: PurePath, endings: tuple[str, ...]) -> bool:
    return path.name.lower().endswith(endings)


def is_midi(path: PurePath) -> bool:
    """Whether a file's name is that of a MIDI file."""
    return path.name.lower().removesuffix(".gz").endswith(MIDI_SUFFIXES)


def _named(data: str | bytes | None, path: PurePath, **known: str) -> Source:
    """A file with the split, composer and title that its path tells, except what is ``known``."""
    name = PurePath(readable(path.as_posix()))
    split = SPLIT_NAMES.get(name.parts[0].lower(), "") if len(name.parts) > 1 else ""
    plain = name.with_suffix("") if name.suffix.lower() == ".gz" else name
    parts = plain.with_suffix("").parts[1 if split else 0 :]
    composer = parts[0] if len(parts) > 1 else ""
    told = {"composer": composer, "title": "/".join(parts[1:] or parts), "split": split}
    return Source(data, name.as_posix(), **{**told, **known})


def readable(name: str) -> str:
    """A file's name in UTF-8, which it need not be in."""
    return os.fsencode(name).decode("utf-8", "replace")


def _of_csv(csv: Path, folder: Path) -> Iterator[Source]:
    try:
        with csv.open(encoding="utf-8-sig", newline="") as file:
            table = csv_files.DictReader(file)
            columns = table.fieldnames or []
            missing = [column for column in CSV_COLUMNS if column not in columns]
            if missing:
                raise RitornelloError(f"{csv}: has no column {', '.join(missing)}; it needs {', '.join(CSV_COLUMNS)}")
            line = 1
            for line, row in enumerate(table, 2):
                yield _of_row(row, csv, folder, f"row {line}")
            if line == 1:
                raise RitornelloError(f"{csv}: has no rows; give a table with one row for each performance")
    except OSError as error:
        raise RitornelloError(f"{csv}: cannot be read ({error.strerror}); check the path") from None
    except (UnicodeDecodeError, csv_files.Error):
        raise RitornelloError(f"{csv}: is not a CSV file in UTF-8; save it as one") from None


def _of_row(row: dict[str, str | None], csv: Path, folder: Path, which: str) -> Source:
    name = (row["midi_filename"] or "").strip()
    if not name:
        raise RitornelloError(f"{csv}: {which} has no midi_filename; complete it or take the row out")
    path = csv.parent / name
    if not path.exists() and (folder / name).exists():
        path = folder / name
    split = _split_of(row, csv, which)
    return Source(str(path), name, row["canonical_composer"] or "", row["canonical_title"] or "", split)


def _split_of(row: dict[str, str | None], table: Path, which: str) -> str:
    if "split" not in row:
        return ""
    split = SPLIT_NAMES.get((row["split"] or "").strip().lower(), "")
    if not split:
        raise RitornelloError(f"{table}: {which} has split {row['split']!r}; use {', '.join(SPLITS)}")
    return split


def _of_tar(archive: Path) -> Iterator[Source]:
    """The MIDI files of a tar archive, compressed or not, read once from its beginning to its end."""
    try:
        with tarfile.open(archive, "r|*") as members:
            for member in members:
                path = PurePath(member.name)
                content = members.extractfile(member) if member.isfile() and is_midi(path) else None
                if content is not None:
                    yield _named(content.read(MAX_BYTES + 1), path)
    except (tarfile.TarError, EOFError, zlib.error, LZMAError) as error:
        raise RitornelloError(f"{archive}: is cut short or damaged ({error}); get an intact copy") from None
    except OSError as error:
        reason = error.strerror or "it is damaged"
        raise RitornelloError(f"{archive}: cannot be read ({reason}); check the path") from None


def _of_parquet(table: Path) -> Iterator[Source]:
    """The rows of a Parquet file: a column of bytes, and where there are such, the columns of MAESTRO."""
    with needing(f"{table}:", "'ritornello[parquet]'"):
        from pyarrow import ArrowException, parquet, types
    try:
        with parquet.ParquetFile(table) as file:
            schema = file.schema_arrow
            kinds = {name: schema.field(name).type for name in schema.names}
            binary = [n for n, kind in kinds.items() if types.is_binary(kind) or types.is_large_binary(kind)]
            if len(binary) != 1:
                found = ", ".join(binary) or "none"
                raise RitornelloError(f"{table}: needs one column of bytes, the MIDI files; it has {found}")
            known = [name for name in (*CSV_COLUMNS, "split") if name in schema.names]
            row = 0
            for batch in file.iter_batches(PARQUET_ROWS, columns=[*binary, *known]):
                for values in batch.to_pylist():
                    row += 1
                    yield _of_values(values, binary[0], table, f"row {row}")
    except OSError as error:
        raise RitornelloError(f"{table}: cannot be read ({str(error).splitlines()[0]}); check the file") from None
    except ArrowException as error:
        raise RitornelloError(f"{table}: is damaged ({str(error).splitlines()[0]}); get an intact copy") from None


def _of_values(values: dict[str, Any], binary: str, table: Path, which: str) -> Source:
    columns = {"canonical_composer": "composer", "canonical_title": "title"}
    known = {field: values[column] or "" for column, field in columns.items() if column in values}
    path = PurePath(values.get("midi_filename") or which)
    return _named(values[binary], path, **known, split=_split_of(values, table, which))


def licence_files(folder: Path) -> list[str]:
    """The names of licences that lie in ``folder``, sorted."""
    if not folder.is_dir():
        return []
    return sorted(path.name for path in folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))
