"""The packed corpus: a folder of memory-mapped files, opened without reading its pieces.

A shard, a uint16 ``.npy``, is the tokens of several pieces, end to end; shards stay below ``SHARD_BYTES`` unless one
piece alone is longer. ``pieces.npy`` has a row for each piece (`ROW`) and says where it starts, ``names.jsonl`` its
composer, title and file, ``report.json`` what was skipped, mended or found twice; ``manifest.json`` has the rest. Needs
numpy and the standard library only.
"""

from __future__ import annotations

import json
import mmap
import warnings
import zlib
from bisect import bisect_left
from collections.abc import Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, overload

import numpy as np
from numpy.typing import NDArray

from ritornello.codec import FINGERPRINT
from ritornello.errors import RitornelloError
from ritornello.files import with_checksum, without_checksum, write_whole
from ritornello.hub import local

Tokens = NDArray[np.uint16]
Rows = NDArray[np.void]  # (N,) of ROW

FORMAT_VERSION = 2
MANIFEST, REPORT, ROWS, NAMES = "manifest.json", "report.json", "pieces.npy", "names.jsonl"
SPLITS = ("train", "validation", "test")
NOTHING_HELD_OUT = "nothing is held out: validation reads training music, and no figure is of new music"
UNDECIDED = len(SPLITS)  # the split of pieces in a part whose source names none
SHARD_BYTES = 64 * 2**20
TOKEN_TYPE = np.dtype("<u2")
ROW = np.dtype(
    [
        ("number", "<u4"),  # place among the files that the corpus was made from
        ("source", "<u2"),
        ("split", "u1"),  # place in SPLITS, or UNDECIDED
        ("shard", "<u4"),  # place among the manifest's shards
        ("start", "<u8"),
        ("tokens", "<u4"),
        ("notes", "<u4"),
        ("seconds", "<f8"),
        ("text", "<u8"),  # place of its line in names.jsonl, in bytes
    ]
)


@dataclass(frozen=True)
class PieceRecord:
    """One piece of a corpus and where its tokens lie."""

    composer: str
    title: str
    split: str
    file: str  # the MIDI file, relative to what it was prepared from
    shard: str  # file name
    start: int  # tokens before the piece in its shard
    tokens: int  # END included
    notes: int
    seconds: float  # of music, as tokenised
    source: int = 0  # place among the corpus's sources


class Records(Sequence[PieceRecord]):
    """Pieces in a table, each made when it is asked for.

    Args:
        rows: (N,) of `ROW`.
        text: JSON lines (composer, title, file), where ``rows`` say.
        shards: file names.
    """

    def __init__(self, rows: Rows, text: bytes | mmap.mmap, shards: Sequence[str]) -> None:
        self.rows, self.text, self.shards = rows, text, shards

    def __len__(self) -> int:
        return len(self.rows)

    def __reduce__(self) -> tuple[Any, ...]:
        return Records, (np.array(self.rows), bytes(self.text), list(self.shards))  # maps are one process's own

    @overload
    def __getitem__(self, place: int) -> PieceRecord: ...
    @overload
    def __getitem__(self, place: slice) -> Records: ...
    def __getitem__(self, place: int | slice) -> PieceRecord | Records:
        if isinstance(place, slice):
            return Records(self.rows[place], self.text, self.shards)
        _, source, split, shard, start, tokens, notes, seconds, text = self.rows[place].item()
        composer, title, file = self.names(text)
        name = (*SPLITS, "")[split]
        return PieceRecord(composer, title, name, file, self.shards[shard], start, tokens, notes, seconds, source)

    def names(self, text: int) -> list[str]:
        """Composer, title and file in the line at ``text``."""
        names: list[str] = json.loads(self.text[text : self.text.find(b"\n", text)])
        return names


class Corpus:
    """A prepared corpus, opened for reading.

    Attributes:
        path: the folder.
        manifest: everything that ``manifest.json`` says, as plain dictionaries and lists.
        table: every piece, train first, then validation and test.
        records: the same, or others that a caller puts in their place.
        shards: the mapped tokens by file name.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], table: Records) -> None:
        self.path = path
        self.manifest = manifest
        self.table = table
        self.records: Sequence[PieceRecord] = table
        self.shards: dict[str, Tokens] = {}

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Opens the corpus in folder ``path``, or on the hub (``hf://owner/name``).

        Raises:
            RitornelloError: if there is none, it is a part, has another format or vocabulary, or is damaged.
        """
        corpus = cls.open_part(path)
        if corpus.part:
            which = "part {} of {}".format(*corpus.part)
            raise RitornelloError(f"{path}: is {which}; join all parts with 'ritornello data merge'")
        return corpus

    @classmethod
    def open_part(cls, path: str | Path) -> Corpus:
        """Like `open`; the folder may also be a part, whose pieces may have no split yet."""
        path = local(path, "dataset")
        manifest = _read_json(path, MANIFEST)
        if (version := manifest.get("format_version")) != FORMAT_VERSION:
            raise RitornelloError(
                f"{path}: corpus format {version}, this program reads {FORMAT_VERSION}; prepare the corpus again"
            )
        manifest = without_checksum(path / MANIFEST, manifest, "prepare the corpus again")
        if manifest.get("vocabulary") != FINGERPRINT:
            raise RitornelloError(f"{path}: made with another vocabulary; prepare the corpus again")
        try:
            shards = {str(shard["file"]): int(shard["tokens"]) for shard in manifest["shards"]}
            records = _mapped(path, manifest)
        except (KeyError, TypeError, ValueError):
            raise RitornelloError(f"{path / MANIFEST}: is damaged; prepare the corpus again") from None
        corpus = cls(path, manifest, records)
        for name, tokens in shards.items():
            corpus.shards[name] = _map_shard(path / name, tokens)
        return corpus

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def licence(self) -> str:
        """The licence of the performances, as given when the corpus was prepared; empty if it was not."""
        return str(self.manifest["licence"])

    @property
    def sources(self) -> list[dict[str, Any]]:
        """Name, licence and weight of each source; the weight says how often an epoch reads each of its pieces."""
        own = {"name": self.name, "licence": self.licence, "weight": 1.0}
        sources: list[dict[str, Any]] = self.manifest.get("sources", [own])
        return sources

    @property
    def part(self) -> tuple[int, int] | None:
        """(i, n) of the i-th of n parts; None for a whole corpus."""
        part = self.manifest.get("part")
        return part and (part[0], part[1])

    @cached_property
    def report(self) -> dict[str, list[Any]]:
        """Lists of what was ``skipped``, ``mended``, found twice (``duplicates``) or in several ``takes``."""
        of_file = _read_json(self.path, REPORT)
        return {name: of_file.get(name, []) for name in ("skipped", "mended", "duplicates", "takes")}

    def splits(self) -> dict[str, int]:
        """The splits that hold pieces, and how many."""
        counts = {split: len(self._of(split)) for split in SPLITS}
        return {split: count for split, count in counts.items() if count}

    def pieces(self, split: str) -> Sequence[PieceRecord]:
        """The pieces of ``split``. Raises RitornelloError if it has none."""
        pieces = self._of(split) if split in SPLITS else []
        if not pieces:
            splits = ", ".join(f"{name} ({count})" for name, count in self.splits().items())
            raise RitornelloError(f"{self.path}: no pieces in split {split!r}; it has {splits}")
        return pieces

    def with_validation(self) -> Corpus:
        """The same; where no piece is held out for validation, a copy that has those of train there too."""
        if self._of("validation"):
            return self
        corpus, train = copy(self), list(self.pieces("train"))
        again = [replace(record, split="validation") for record in train]
        corpus.records = [*train, *again, *self._of("test")]
        return corpus

    def _of(self, split: str) -> Sequence[PieceRecord]:
        place = SPLITS.index(split)
        start, stop = (bisect_left(self.records, at, key=lambda r: SPLITS.index(r.split)) for at in (place, place + 1))
        return self.records[start:stop]

    def tokens(self, record: PieceRecord) -> Tokens:
        """(T,) the tokens of one piece, END last: a read-only view of the mapped file."""
        return self.shards[record.shard][record.start : record.start + record.tokens]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Corpus.open, (self.path,))  # another process maps the files itself


def _mapped(path: Path, manifest: dict[str, Any]) -> Records:
    rows = _map_array(path / ROWS)
    try:
        with (path / NAMES).open("rb") as file:
            text = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    except (OSError, ValueError):
        raise RitornelloError(f"{path / NAMES}: is missing or damaged; prepare the corpus again") from None
    checks = [zlib.crc32(rows.tobytes()) if rows.dtype == ROW else 0, zlib.crc32(text)]
    if (len(rows), checks) != (manifest["pieces"], manifest["checks"]):
        raise RitornelloError(f"{path}: {ROWS} or {NAMES} is damaged; prepare the corpus again")
    return Records(rows, text, [str(shard["file"]) for shard in manifest["shards"]])


def _read_json(path: Path, name: str) -> dict[str, Any]:
    try:
        content = json.loads((path / name).read_text(encoding="utf-8"))
    except OSError:
        raise RitornelloError(f"{path}: no corpus here (no {name}); make one with 'ritornello data prepare'") from None
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise RitornelloError(f"{path / name}: is damaged; prepare the corpus again")
    return content


def _map_shard(path: Path, tokens: int) -> Tokens:
    shard = _map_array(path)
    if shard.dtype != TOKEN_TYPE or shard.shape != (tokens,):
        raise RitornelloError(f"{path}: is not the shard that the manifest describes; prepare the corpus again")
    return shard


def _map_array(path: Path) -> NDArray[Any]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a header that is odd but can be read was not written so
            mapped = np.lib.format.open_memmap(path, mode="r")
        if mapped.offset + mapped.nbytes != path.stat().st_size:
            raise ValueError("the header has another length")
        return np.asarray(mapped)
    except FileNotFoundError:
        raise RitornelloError(f"{path}: is missing; prepare the corpus again") from None
    except Exception:  # numpy has no one kind of error for a damaged header, or a file shorter than it says
        raise RitornelloError(f"{path}: is cut short or damaged; prepare the corpus again") from None


# ---- writing; each raises OSError as the disk does ----


def write_array(path: Path, array: NDArray[Any]) -> None:
    """Writes a ``.npy``, a little-endian one-dimensional array."""
    with path.open("wb") as file:
        descr = np.lib.format.dtype_to_descr(array.dtype)
        np.lib.format.write_array_header_1_0(file, {"descr": descr, "fortran_order": False, "shape": array.shape})
        file.write(np.ascontiguousarray(array).data)  # not ndarray.tofile, which loses the reason of a failed write


def write_shard(path: Path, pieces: Iterable[Tokens]) -> int:
    """Writes one shard; gives its length in tokens."""
    tokens = np.concatenate(list(pieces)).astype(TOKEN_TYPE, copy=False)
    write_array(path, tokens)
    return len(tokens)


def line_of(composer: str, title: str, file: str) -> bytes:
    """A line of ``names.jsonl``."""
    return json.dumps([composer, title, file], ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def write_corpus(path: Path, records: Records, shards: dict[str, int], manifest: dict[str, Any], report: Any) -> None:
    """Writes all of the corpus in folder ``path`` but its shards, whose names and lengths are given."""
    rows = records.rows.copy()
    place, text_check = 0, 0
    with (path / NAMES).open("wb") as file:
        for number, text in enumerate(rows["text"].tolist()):
            line = records.text[text : records.text.find(b"\n", text) + 1]
            rows["text"][number] = place
            place, text_check = place + file.write(line), zlib.crc32(line, text_check)
    write_array(path / ROWS, rows)
    write_whole(path / REPORT, json.dumps(report, indent=1, ensure_ascii=False) + "\n")
    head = {"format_version": FORMAT_VERSION, "vocabulary": FINGERPRINT, **manifest, "pieces": len(rows)}
    head["checks"] = [zlib.crc32(rows.tobytes()), text_check]
    head["shards"] = [{"file": file, "tokens": tokens} for file, tokens in shards.items()]
    write_whole(path / MANIFEST, json.dumps(with_checksum(head), indent=1, ensure_ascii=False) + "\n")


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
