"""The packed corpus: a folder with ``manifest.json`` and uint16 ``.npy`` shards, read by memory mapping.

A shard is the tokens of several pieces of one split, end to end; the manifest says where each piece starts. Shards stay
below ``SHARD_BYTES`` unless one piece alone is longer. Needs numpy and the standard library only.
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello.codec import FINGERPRINT
from ritornello.errors import RitornelloError
from ritornello.files import write_whole

Tokens = NDArray[np.uint16]

FORMAT_VERSION = 1
MANIFEST = "manifest.json"
SPLITS = ("train", "validation", "test")
SHARD_BYTES = 64 * 2**20
TOKEN_TYPE = np.dtype("<u2")


@dataclass(frozen=True)
class PieceRecord:
    """One piece of a corpus and where its tokens lie."""

    composer: str
    title: str
    split: str
    source: str  # the MIDI file, relative to the folder or CSV it was prepared from
    shard: str  # file name
    start: int  # tokens before the piece in its shard
    tokens: int  # END included
    notes: int
    seconds: float  # of music, as tokenised


class Corpus:
    """A prepared corpus, opened for reading.

    Attributes:
        path: the folder.
        manifest: everything that ``manifest.json`` says, as plain dictionaries and lists.
        records: every piece, train first, then validation and test.
    """

    def __init__(self, path: Path, manifest: dict[str, Any], records: list[PieceRecord]) -> None:
        self.path = path
        self.manifest = manifest
        self.records = records
        self._shards: dict[str, Tokens] = {}

    @classmethod
    def open(cls, path: str | Path) -> Corpus:
        """Opens the corpus in folder ``path``.

        Raises:
            RitornelloError: if there is none, it has another format or vocabulary, or a shard is missing or cut short.
        """
        path = Path(path)
        manifest = _read_manifest(path)
        if manifest.get("format_version") != FORMAT_VERSION:
            raise RitornelloError(
                f"{path}: corpus format {manifest.get('format_version')}, this program reads {FORMAT_VERSION}; "
                "prepare the corpus again"
            )
        if manifest.get("vocabulary") != FINGERPRINT:
            raise RitornelloError(f"{path}: made with another vocabulary; prepare the corpus again")
        try:
            records = [PieceRecord(**piece) for piece in manifest["pieces"]]
            shards = {str(shard["file"]): int(shard["tokens"]) for shard in manifest["shards"]}
        except (KeyError, TypeError, ValueError):
            raise RitornelloError(f"{path / MANIFEST}: is damaged; prepare the corpus again") from None
        corpus = cls(path, manifest, records)
        for name, tokens in shards.items():
            corpus._shards[name] = _map_shard(path / name, tokens)
        if any(record.start + record.tokens > shards.get(record.shard, -1) for record in records):
            raise RitornelloError(f"{path / MANIFEST}: is damaged; prepare the corpus again")
        return corpus

    @property
    def name(self) -> str:
        return str(self.manifest["name"])

    @property
    def licence(self) -> str:
        """The licence of the performances, as given when the corpus was prepared; empty if it was not."""
        return str(self.manifest["licence"])

    def splits(self) -> dict[str, int]:
        """The splits that hold pieces, and how many."""
        counts = {split: sum(record.split == split for record in self.records) for split in SPLITS}
        return {split: count for split, count in counts.items() if count}

    def pieces(self, split: str) -> list[PieceRecord]:
        """The pieces of ``split``. Raises RitornelloError if it has none."""
        found = [record for record in self.records if record.split == split]
        if not found:
            there = ", ".join(f"{name} ({count})" for name, count in self.splits().items())
            raise RitornelloError(f"{self.path}: no pieces in split {split!r}; it has {there}")
        return found

    def tokens(self, record: PieceRecord) -> Tokens:
        """(T,) the tokens of one piece, END last: a read-only view of the mapped file."""
        return self._shards[record.shard][record.start : record.start + record.tokens]

    def __reduce__(self) -> tuple[Any, ...]:
        return (Corpus.open, (self.path,))  # another process maps the files itself


def _read_manifest(path: Path) -> dict[str, Any]:
    try:
        manifest = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
    except OSError:
        raise RitornelloError(
            f"{path}: no corpus here (no {MANIFEST}); make one with 'ritornello data prepare'"
        ) from None
    except ValueError:
        manifest = None
    if not isinstance(manifest, dict):
        raise RitornelloError(f"{path / MANIFEST}: is damaged; prepare the corpus again")
    return manifest


def _map_shard(path: Path, tokens: int) -> Tokens:
    try:
        shard = np.lib.format.open_memmap(path, mode="r")
    except FileNotFoundError:
        raise RitornelloError(f"{path}: is missing; prepare the corpus again") from None
    except (OSError, ValueError):  # ValueError is numpy's for a file shorter than its header says
        raise RitornelloError(f"{path}: is cut short or damaged; prepare the corpus again") from None
    if shard.dtype != TOKEN_TYPE or shard.shape != (tokens,):
        raise RitornelloError(f"{path}: is not the shard that the manifest describes; prepare the corpus again")
    return np.asarray(shard)


def shard_name(split: str, number: int) -> str:
    return f"{split}-{number:03d}.npy"


def write_shard(path: Path, pieces: Iterable[Tokens]) -> int:
    """Writes one shard; gives its length in tokens. Raises OSError as the disk does."""
    tokens = np.concatenate(list(pieces)).astype(TOKEN_TYPE, copy=False)
    with path.open("wb") as file:
        np.lib.format.write_array_header_1_0(
            file, {"descr": TOKEN_TYPE.str, "fortran_order": False, "shape": tokens.shape}
        )
        file.write(tokens.data)  # not ndarray.tofile, which loses the reason of a failed write
    return len(tokens)


def write_manifest(path: Path, records: Iterable[PieceRecord], rest: dict[str, Any]) -> None:
    """Writes the manifest into folder ``path``. Raises OSError as the disk does."""
    manifest = {"format_version": FORMAT_VERSION, "vocabulary": FINGERPRINT, **rest}
    manifest["pieces"] = [asdict(record) for record in records]
    write_whole(path / MANIFEST, json.dumps(manifest, indent=1, ensure_ascii=False) + "\n")
