"""From MIDI files to a packed corpus: a folder at any depth, or a CSV with MAESTRO's columns.

Four steps: list the sources, tokenise them in the pool (tokens go to a spool file as they come), decide splits and
duplicates, write the shards. Everything happens in a temporary folder beside the destination, renamed at the end.
"""

from __future__ import annotations

import csv as csv_files
import errno
import hashlib
import os
import secrets
import shutil
from collections.abc import Callable, Container, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ritornello.corpus.shards import (
    MANIFEST,
    SHARD_BYTES,
    SPLITS,
    TOKEN_TYPE,
    Corpus,
    PieceRecord,
    Tokens,
    shard_name,
    write_manifest,
    write_shard,
)
from ritornello.corpus.workers import Failure, map_files
from ritornello.errors import RitornelloError

Progress = Callable[[int, int, str], None]

MIDI_SUFFIXES = (".mid", ".midi")
SPLIT_NAMES = {"training": "train", "valid": "validation", "val": "validation", "dev": "validation", "testing": "test"}
SPLIT_NAMES |= {split: split for split in SPLITS}
CSV_COLUMNS = ("canonical_composer", "canonical_title", "midi_filename")
HELD_OUT_SHARE = 0.1  # of the pieces, for validation and again for test, where the source names no splits


class Source(NamedTuple):
    """One MIDI file to read, and what is known about it. ``split`` is empty where the seed shall choose."""

    path: str
    name: str  # relative to the folder or CSV
    composer: str
    title: str
    split: str


@dataclass(frozen=True)
class _Spooled:
    """A tokenised source; ``start`` and ``tokens`` place it in the spool file."""

    source: Source
    start: int
    tokens: int
    notes: int
    seconds: float
    digest: bytes


def prepare(
    source: str | Path,
    destination: str | Path,
    *,
    csv: str | Path | None = None,
    seed: int = 0,
    name: str | None = None,
    licence: str = "",
    keep_programs: Container[int] | None = None,
    workers: int | None = None,
    timeout_s: float = 60.0,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Makes the corpus ``destination`` from MIDI files.

    Splits come from the CSV's ``split`` column, or from folders named train, validation and test below ``source``;
    otherwise 80 % of the pieces go to train and 10 % each to validation and test, shuffled by ``seed``. Files that
    cannot be read are skipped, listed with the reason in the manifest. Of pieces equal token for token, copies in
    train are left out when another split has one.

    Args:
        source: a folder, searched at any depth for .mid and .midi files; or the CSV itself.
        destination: the corpus folder to make.
        csv: a table with columns canonical_composer, canonical_title, midi_filename (relative to the CSV's folder or to
            ``source``) and perhaps split; others are ignored.
        seed: for the splits, where the source has none.
        name: of the corpus; None is the destination's name.
        licence: of the performances, kept in the manifest.
        keep_programs: see `ritornello.midi.read_midi`.
        workers: processes; None is one for each processor.
        timeout_s: seconds that one file may take.
        overwrite: whether a corpus at ``destination`` may be replaced.
        progress: called with (done, total, file name) after every file.

    Raises:
        RitornelloError: if the source is unusable, nothing is left of it, or the destination cannot be written.
    """
    source, destination = Path(source), Path(destination)
    if csv is None and source.suffix.lower() == ".csv" and source.is_file():
        source, csv = source.parent, source
    sources = list_csv(Path(csv), source) if csv is not None else list_folder(source)
    base = Path(csv).parent if csv is not None else source
    check_destination(destination, (source, base), overwrite=overwrite)
    with _folder_in_the_making(destination) as making:
        spooled, skipped = _tokenise(sources, making / "spool", keep_programs, workers, timeout_s, progress)
        if not spooled:
            reason = f"; the first: {skipped[0]['file']}: {skipped[0]['reason']}" if skipped else ""
            raise RitornelloError(f"{csv or source}: none of {len(sources)} files could be used{reason}")
        spooled = _assign_splits(spooled, seed)
        kept, duplicates = _without_leaks(spooled)
        records, shards = _write_shards(kept, making)
        rest = {
            "name": name or destination.resolve().name,
            "licence": licence,
            "licence_files": _licence_files(base),
            "seed": None if _names_splits(sources) else seed,
            "shards": shards,
            "skipped": skipped,
            "duplicates": duplicates,
        }
        write_manifest(making, records, rest)
    return Corpus.open(destination)


# ---- sources ----


def list_folder(folder: Path) -> list[Source]:
    """The MIDI files below ``folder``, sorted by name. Raises RitornelloError if there are none."""
    if not folder.is_dir():
        raise RitornelloError(f"{folder}: is not a folder; give a folder of MIDI files, or a CSV with --csv")

    def refuse(error: OSError) -> None:
        raise RitornelloError(f"{error.filename}: cannot be read ({error.strerror}); ask for the right to read it")

    below = (Path(top, name) for top, _, names in os.walk(folder, onerror=refuse) for name in names)
    paths = sorted(path for path in below if path.suffix.lower() in MIDI_SUFFIXES)
    if not paths:
        raise RitornelloError(f"{folder}: holds no .mid or .midi files; give another folder")
    names = [path.relative_to(folder) for path in paths]
    splits = [SPLIT_NAMES.get(name.parts[0].lower(), "") if len(name.parts) > 1 else "" for name in names]
    if any(splits) and not all(splits):
        stray = names[splits.index("")]
        raise RitornelloError(f"{folder}: {stray} lies outside the split folders {_listed(splits)}; move it into one")
    return [_from_folder(path, name, split=split) for path, name, split in zip(paths, names, splits, strict=True)]


def _from_folder(path: Path, name: Path, *, split: str) -> Source:
    parts = name.with_suffix("").parts[1 if split else 0 :]
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


def _names_splits(sources: list[Source]) -> bool:
    """Whether the source names the splits itself."""
    return bool(sources[0].split)


def _listed(splits: list[str]) -> str:
    return ", ".join(split for split in SPLITS if split in splits)


def _licence_files(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.name.upper().startswith(("LICENSE", "LICENCE")))


# ---- tokens ----


class _Task(NamedTuple):
    path: str
    keep_programs: Container[int] | None


def _load(task: _Task) -> Tokens:
    """Runs in a worker: the tokens of one file."""
    from ritornello.codec import encode
    from ritornello.midi import read_midi

    try:
        piece = read_midi(task.path, keep_programs=task.keep_programs)
    except RitornelloError as error:
        raise RitornelloError(str(error).removeprefix(f"{task.path}: ")) from None
    if not len(piece):
        raise RitornelloError("holds no notes")
    return encode(piece)


def _tokenise(
    sources: list[Source],
    spool: Path,
    keep_programs: Container[int] | None,
    workers: int | None,
    timeout_s: float,
    progress: Progress | None,
) -> tuple[list[_Spooled], list[dict[str, str]]]:
    """Reads every source; gives those that worked, in the order of ``sources``, and the others with the reason."""
    tasks = [_Task(source.path, keep_programs) for source in sources]
    done: dict[int, _Spooled] = {}
    failed: dict[int, str] = {}
    start = 0
    with spool.open("wb") as file:
        for index, outcome in map_files(_load, tasks, workers=workers, timeout_s=timeout_s):
            if isinstance(outcome, Failure):
                failed[index] = outcome.reason
            else:
                file.write(outcome.astype(TOKEN_TYPE, copy=False).data)
                done[index] = _measured(sources[index], outcome, start)
                start += len(outcome)
            if progress:
                progress(len(done) + len(failed), len(sources), sources[index].name)
    skipped = [{"file": sources[index].name, "reason": failed[index]} for index in sorted(failed)]
    return [done[index] for index in sorted(done)], skipped


def _measured(source: Source, tokens: Tokens, start: int) -> _Spooled:
    from ritornello.codec import NOTE_OFF, seconds_of

    return _Spooled(
        source,
        start,
        tokens=len(tokens),
        notes=int(np.count_nonzero(tokens < NOTE_OFF)),
        seconds=round(float(seconds_of(tokens)), 2),
        digest=hashlib.sha256(tokens.data).digest(),
    )


# ---- splits and duplicates ----


def _assign_splits(pieces: list[_Spooled], seed: int) -> list[_Spooled]:
    """Pieces with a split each: the given one, or the seed's choice, which keeps equal pieces together."""
    if pieces[0].source.split:
        return pieces
    digests = list(dict.fromkeys(piece.digest for piece in sorted(pieces, key=lambda piece: piece.source.name)))
    held_out = max(1, round(HELD_OUT_SHARE * len(digests)))
    sizes = [0, min(held_out, max(0, len(digests) - 1)), min(held_out, max(0, len(digests) - 2))]
    sizes[0] = len(digests) - sum(sizes)
    order = np.random.default_rng(seed).permutation(len(digests))
    labels = np.repeat(SPLITS, sizes)
    split_of = {digests[place]: str(label) for place, label in zip(order, labels, strict=True)}
    return [replace(piece, source=piece.source._replace(split=split_of[piece.digest])) for piece in pieces]


def _without_leaks(pieces: list[_Spooled]) -> tuple[list[_Spooled], list[dict[str, object]]]:
    """The pieces less the train copies of what another split holds too, and every group of equal pieces."""
    groups: dict[bytes, list[_Spooled]] = {}
    for piece in pieces:
        groups.setdefault(piece.digest, []).append(piece)
    duplicates: list[dict[str, object]] = []
    left_out: set[int] = set()
    for group in groups.values():
        if len(group) < 2:
            continue
        leaks = len({piece.source.split for piece in group}) > 1
        dropped = [piece for piece in group if leaks and piece.source.split == "train"]
        left_out.update(piece.start for piece in dropped)
        duplicates.append(
            {
                "files": [piece.source.name for piece in group],
                "splits": [piece.source.split for piece in group],
                "left_out": [piece.source.name for piece in dropped],
            }
        )
    return [piece for piece in pieces if piece.start not in left_out], duplicates


# ---- writing ----


def _write_shards(pieces: list[_Spooled], folder: Path) -> tuple[list[PieceRecord], list[dict[str, object]]]:
    """Copies the pieces from the spool into shards, split by split; removes the spool."""
    spool = np.memmap(folder / "spool", TOKEN_TYPE, mode="r")
    records: list[PieceRecord] = []
    shards: list[dict[str, object]] = []
    for split in SPLITS:
        mine = [piece for piece in pieces if piece.source.split == split]
        for number, shard in enumerate(_packed(mine)):
            file = shard_name(split, number)
            tokens = write_shard(folder / file, (spool[piece.start : piece.start + piece.tokens] for piece in shard))
            shards.append({"file": file, "tokens": tokens})
            start = 0
            for piece in shard:
                records.append(_record(piece, file, start))
                start += piece.tokens
    del spool
    (folder / "spool").unlink()
    return records, shards


def _packed(pieces: list[_Spooled]) -> Iterator[list[_Spooled]]:
    """Consecutive pieces in groups that fit a shard."""
    room = SHARD_BYTES // TOKEN_TYPE.itemsize - 64  # the header is 128 bytes
    shard: list[_Spooled] = []
    for piece in pieces:
        if shard and sum(one.tokens for one in shard) + piece.tokens > room:
            yield shard
            shard = []
        shard.append(piece)
    if shard:
        yield shard


def _record(piece: _Spooled, shard: str, start: int) -> PieceRecord:
    source = piece.source
    return PieceRecord(
        composer=source.composer,
        title=source.title,
        split=source.split,
        source=source.name,
        shard=shard,
        start=start,
        tokens=piece.tokens,
        notes=piece.notes,
        seconds=piece.seconds,
    )


def check_destination(destination: Path, sources: tuple[Path, ...], *, overwrite: bool) -> None:
    """Raises RitornelloError unless ``destination`` is free, or a corpus that may be replaced."""
    if not destination.exists():
        return
    if not destination.is_dir():
        raise RitornelloError(f"{destination}: is a file; give a folder to make")
    if not any(destination.iterdir()):
        return
    if not overwrite:
        raise RitornelloError(f"{destination}: exists already; give another folder, or ask to overwrite it")
    if not (destination / MANIFEST).is_file():
        raise RitornelloError(f"{destination}: is not a corpus, so it is not overwritten; give another folder")
    if any(destination.resolve() in (source.resolve(), *source.resolve().parents) for source in sources):
        raise RitornelloError(f"{destination}: holds the source; give another folder")


@contextmanager
def _folder_in_the_making(destination: Path) -> Iterator[Path]:
    """A temporary sibling of ``destination`` that takes its place at the end, or vanishes on any error."""
    making: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        making = _new_sibling(destination)
        yield making
        _take_the_place(making, destination)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RitornelloError(f"{destination}: the disk is full; nothing was kept, make room") from None
        raise RitornelloError(f"{destination}: cannot be written ({error.strerror}); give another folder") from None
    finally:
        if making is not None:
            shutil.rmtree(making, ignore_errors=True)


def _take_the_place(making: Path, destination: Path) -> None:
    if not destination.exists():
        making.rename(destination)
        return
    aside = _new_sibling(destination)
    destination.rename(aside / "old")
    try:
        making.rename(destination)
    except OSError:
        (aside / "old").rename(destination)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _new_sibling(destination: Path) -> Path:
    sibling = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
    sibling.mkdir()  # not tempfile's, which nobody but the owner could read afterwards
    return sibling
