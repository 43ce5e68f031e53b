"""From MIDI files to a packed corpus.

Four steps: list the sources, tokenise them in the pool (tokens go to a spool file as they come), decide splits and
duplicates, write the shards. Everything happens in a temporary folder beside the destination, renamed at the end.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Container, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ritornello.corpus.destination import check_destination
from ritornello.corpus.shards import (
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
from ritornello.corpus.sources import Source, licence_files, list_csv, list_folder, names_splits
from ritornello.corpus.splits import Tokenised, assign_splits, without_leaks
from ritornello.corpus.workers import Failure, map_files
from ritornello.errors import RitornelloError
from ritornello.files import whole_folder

Progress = Callable[[int, int, str], None]


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
    cannot be read are skipped; the manifest lists them with the reason, and what was mended in the others. Of pieces
    equal token for token, copies in train are left out when another split has one.

    Args:
        source: a folder, searched at any depth for MIDI files (.mid, .midi, .kar, .rmi, each perhaps .gz); or the CSV
            itself.
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
    with whole_folder(destination) as making:
        spooled, skipped, mended = _tokenise(sources, making / "spool", keep_programs, workers, timeout_s, progress)
        if not spooled:
            reason = f"; the first: {skipped[0]['file']}: {skipped[0]['reason']}" if skipped else ""
            raise RitornelloError(f"{csv or source}: none of {len(sources)} files could be used{reason}")
        spooled = assign_splits(spooled, seed)
        kept, duplicates = without_leaks(spooled)
        records, shards = _write_shards(kept, making)
        rest = {
            "name": name or destination.resolve().name,
            "licence": licence,
            "licence_files": licence_files(base),
            "seed": None if names_splits(sources) else seed,
            "shards": shards,
            "skipped": skipped,
            "mended": mended,
            "duplicates": duplicates,
        }
        write_manifest(making, records, rest)
    return Corpus.open(destination)


# ---- tokens ----


class _Task(NamedTuple):
    path: str
    keep_programs: Container[int] | None


def _load(task: _Task) -> tuple[Tokens, dict[str, int]]:
    """Runs in a worker: the tokens of one file, and what was mended in it."""
    from ritornello.codec import encode
    from ritornello.midi import read_midi

    try:
        piece = read_midi(task.path, keep_programs=task.keep_programs)
    except RitornelloError as error:
        raise RitornelloError(str(error).removeprefix(f"{task.path}: ")) from None
    if not len(piece):
        raise RitornelloError("holds no notes")
    return encode(piece), dict(piece.mended)


def _tokenise(
    sources: list[Source],
    spool: Path,
    keep_programs: Container[int] | None,
    workers: int | None,
    timeout_s: float,
    progress: Progress | None,
) -> tuple[list[Tokenised], list[dict[str, str]], list[dict[str, Any]]]:
    """Reads every source; gives those that worked, in the order of ``sources``, the others with the reason, and what
    was mended.
    """
    tasks = [_Task(source.path, keep_programs) for source in sources]
    done: dict[int, Tokenised] = {}
    failed: dict[int, str] = {}
    mended: dict[int, dict[str, int]] = {}
    start = 0
    with spool.open("wb") as file:
        for index, outcome in map_files(_load, tasks, workers=workers, timeout_s=timeout_s):
            if isinstance(outcome, Failure):
                failed[index] = outcome.reason
            else:
                tokens, mended[index] = outcome
                file.write(tokens.astype(TOKEN_TYPE, copy=False).data)
                done[index] = _measured(sources[index], tokens, start)
                start += len(tokens)
            if progress:
                progress(len(done) + len(failed), len(sources), sources[index].name)
    skipped = [{"file": sources[index].name, "reason": failed[index]} for index in sorted(failed)]
    told = [{"file": sources[index].name, "mended": mended[index]} for index in sorted(mended) if mended[index]]
    return [done[index] for index in sorted(done)], skipped, told


def _measured(source: Source, tokens: Tokens, start: int) -> Tokenised:
    from ritornello.codec import NOTE_OFF, seconds_of

    return Tokenised(
        source,
        start,
        tokens=len(tokens),
        notes=int(np.count_nonzero(tokens < NOTE_OFF)),
        seconds=round(float(seconds_of(tokens)), 2),
        digest=hashlib.sha256(tokens.data).digest(),
    )


# ---- writing ----


def _write_shards(pieces: list[Tokenised], folder: Path) -> tuple[list[PieceRecord], list[dict[str, object]]]:
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


def _packed(pieces: list[Tokenised]) -> Iterator[list[Tokenised]]:
    """Consecutive pieces in groups that fit a shard."""
    room = SHARD_BYTES // TOKEN_TYPE.itemsize - 64  # the header is 128 bytes
    shard: list[Tokenised] = []
    for piece in pieces:
        if shard and sum(one.tokens for one in shard) + piece.tokens > room:
            yield shard
            shard = []
        shard.append(piece)
    if shard:
        yield shard


def _record(piece: Tokenised, shard: str, start: int) -> PieceRecord:
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
