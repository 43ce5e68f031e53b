"""From MIDI files to a packed corpus, whole or in parts, and from parts or several corpora to one.

Four steps: stream the sources, tokenise them in the pool (tokens go to a spool file as they come), decide splits and
duplicates, write the shards. Everything happens in a temporary folder beside the destination, renamed at the end.
"""

from __future__ import annotations

import os
import shutil
from collections import deque
from collections.abc import Callable, Container, Iterator, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from ritornello.corpus.shards import (
    ROW,
    SHARD_BYTES,
    SPLITS,
    TOKEN_TYPE,
    UNDECIDED,
    Corpus,
    PieceRecord,
    Records,
    Rows,
    Tokens,
    check_destination,
    line_of,
    write_corpus,
    write_shard,
)
from ritornello.corpus.sources import Source, is_stream, licence_files, readable, sources_in
from ritornello.corpus.splits import decide
from ritornello.errors import RitornelloError, counted
from ritornello.files import whole_folder
from ritornello.workers import Failure, map_items

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
    part: tuple[int, int] | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Makes the corpus ``destination`` from MIDI files.

    Splits come from the table's ``split`` column, or from folders named train, validation and test below ``source``;
    otherwise about 80 % of the pieces go to train and 10 % each to validation and test, chosen by ``seed``: pieces of
    one composer and title, and takes of the same music, all to the same split. Files that cannot be read are skipped;
    the corpus's report lists them with the reason, and what was mended in the others. Of pieces equal token for token,
    copies in train are left out when another split has one.

    Args:
        source: a folder, searched at any depth for MIDI files (.mid, .midi, .kar, .rmi, each perhaps .gz); a tar
            archive of such, perhaps compressed; a Parquet file with a column of bytes, and perhaps columns as ``csv``
            has; or the CSV itself.
        destination: the corpus folder to make.
        csv: a table with columns canonical_composer, canonical_title, midi_filename (relative to the CSV's folder or to
            ``source``) and perhaps split; others are ignored.
        seed: for the splits, where the source has none.
        name: of the corpus; None is the destination's name.
        licence: of the performances, kept in the manifest.
        keep_programs: see `ritornello.midi.read_midi`.
        part: (i, n) prepares the i-th of n parts, each n-th file; `merge` makes a corpus of all.
        workers: processes; None is one for each processor.
        overwrite: whether a corpus at ``destination`` may be replaced.
        progress: called with (done, total, file name) after every file; of an archive, total is what was read so far.

    Raises:
        RitornelloError: if the source is unusable, nothing is left of it, or the destination cannot be written.
    """
    source, destination = Path(source), Path(destination)
    if csv is None and source.suffix.lower() == ".csv" and source.is_file():
        source, csv = source.parent, source
    table = None if csv is None else Path(csv)
    base = table.parent if table else source
    if part and not 1 <= part[0] <= part[1] <= 9999:
        raise RitornelloError(f"part is {part[0]}/{part[1]}; it must be i/n with i from 1 to n, and n at most 9999")
    check_destination(destination, (source, base), overwrite=overwrite)
    first, step = (part[0] - 1, part[1]) if part else (0, 1)
    n_files = 0 if is_stream(source, table) else sum(1 for _ in sources_in(source, table))
    total = len(range(first, n_files, step))
    with whole_folder(destination) as making:
        numbered = islice(enumerate(sources_in(source, table)), first, None, step)
        records, report = _tokenise(numbered, total, making / "spool", keep_programs, workers, progress)
        if not len(records):
            skipped = report["skipped"]
            reason = f"; the first: {skipped[0]['file']}: {skipped[0]['reason']}" if skipped else ""
            raise RitornelloError(f"{csv or source}: none of {counted(len(skipped), 'files')} could be used{reason}")
        spool = np.memmap(making / "spool", TOKEN_TYPE, mode="r")
        rows, is_open = records.rows.copy(), bool((records.rows["split"] == UNDECIDED).any())
        if part is None:
            decision = decide(records, partial(_spooled, spool), seed)
            rows["split"] = decision.split
            rows = rows[decision.keep]
            report |= decision.report
        rows, shards = _write_shards(rows, spool, making, part)
        del spool
        (making / "spool").unlink()
        manifest = {
            "name": name or ("" if part else readable(destination.resolve().name)),
            "licence": licence,
            "licence_files": licence_files(base),
            "seed": seed if is_open else None,
            **({"part": part} if part else {}),
        }
        write_corpus(making, Records(rows, records.text, list(shards)), shards, manifest, report)
    return Corpus.open_part(destination)


def merge(
    folders: Sequence[str | Path],
    destination: str | Path,
    *,
    weights: Sequence[float] | None = None,
    name: str | None = None,
    overwrite: bool = False,
) -> Corpus:
    """Makes one corpus of all parts of one, or of several corpora, which become its sources.

    Shards are linked where the file system can, else copied. Parts give the corpus that `prepare` makes without them:
    splits are decided now. Corpora keep theirs. Copies are found across all, and left out as `prepare` does.

    Args:
        folders: all the parts of a corpus, or corpora.
        destination: the corpus folder to make.
        weights: for each corpus, how often an epoch reads each of its pieces; None for once. A corpus that has several
            sources keeps their weights, multiplied by this.
        name: of the corpus; None is the destination's name.
        overwrite: whether a corpus at ``destination`` may be replaced.

    Raises:
        RitornelloError: if a folder is no corpus, a part is missing or there twice, parts do not belong together, or
            the destination cannot be written.
    """
    destination, paths = Path(destination), [Path(folder) for folder in folders]
    check_destination(destination, tuple(paths), overwrite=overwrite)
    corpora = [Corpus.open_part(path) for path in paths]
    if any(corpus.part for corpus in corpora):
        corpora = _all_parts(corpora)
        if weights:
            raise RitornelloError("parts are of one corpus and have no weights; leave --weight out")
    weights = weights or [1.0] * len(corpora)
    if len(weights) != len(corpora) or not all(0 < weight <= 1000 for weight in weights):
        raise RitornelloError(f"{len(corpora)} corpora need as many weights, above 0 and at most 1,000; not {weights}")
    records, shards = _joined(corpora)
    seed, rows = corpora[0].manifest["seed"], records.rows
    where = {file: corpus.shards[old] for file, (corpus, old) in shards.items()}
    decision = decide(records, lambda r: where[r.shard][r.start : r.start + r.tokens], seed or 0)
    rows["split"] = decision.split
    rows = rows[decision.keep]
    report = {key: [entry for corpus in corpora for entry in corpus.report[key]] for key in ("skipped", "mended")}
    with whole_folder(destination) as making:
        for file, (corpus, old) in shards.items():
            _link(corpus.path / old, making / file)
        manifest = {
            "name": name or (corpora[0].part and corpora[0].name) or readable(destination.resolve().name),
            "licence": "; ".join(dict.fromkeys(corpus.licence for corpus in corpora if corpus.licence)),
            "licence_files": sorted({file for corpus in corpora for file in corpus.manifest.get("licence_files", [])}),
            "seed": seed if corpora[0].part else None,
        }
        if not corpora[0].part:
            pairs = [(source, weight) for corpus, weight in zip(corpora, weights) for source in corpus.sources]
            manifest["sources"] = [{**source, "weight": source["weight"] * weight} for source, weight in pairs]
        rows = rows[np.argsort(rows["split"], kind="stable")]
        lengths = {file: len(tokens) for file, tokens in where.items()}
        write_corpus(making, Records(rows, records.text, list(shards)), lengths, manifest, report | decision.report)
    return Corpus.open(destination)


def _all_parts(corpora: list[Corpus]) -> list[Corpus]:
    """Parts in their order. Raises RitornelloError unless they are all that there are, and of one corpus."""
    parts = {corpus.part: corpus for corpus in corpora if corpus.part}
    n = max(n for _, n in parts)
    for i in range(1, n + 1):
        if (i, n) not in parts:
            raise RitornelloError(f"part {i} of {n} is missing; give all parts of one corpus, each once")
    if len(corpora) != n:
        raise RitornelloError(
            f"{counted(len(corpora), 'folders')} for {counted(n, 'parts')}; give all parts of one corpus, each once"
        )
    ordered = [parts[i, n] for i in range(1, n + 1)]
    for other in ordered[1:]:
        for key in ("seed", "licence", "name"):
            values = [corpus.manifest[key] for corpus in (ordered[0], other)]
            if values[0] != values[1]:
                raise RitornelloError(
                    f"{other.path}: has {key} {values[1]!r}, the first part {values[0]!r}; prepare it so"
                )
    return ordered


def _joined(corpora: list[Corpus]) -> tuple[Records, dict[str, tuple[Corpus, str]]]:
    """All pieces, and of each shard its corpus and its name there. Parts' pieces are in the order of their files."""
    rows, texts = [], []
    shards: dict[str, tuple[Corpus, str]] = {}
    n_sources = n_bytes = 0
    for number, corpus in enumerate(corpora):
        records = corpus.table
        mine = records.rows.copy()
        mine["shard"] += len(shards)
        mine["source"] += n_sources
        mine["text"] += n_bytes
        rows.append(mine)
        texts.append(bytes(records.text))
        shards |= {f"{number:04d}-{file}": (corpus, file) for file in records.shards}
        n_sources += len(corpus.sources) if not corpus.part else 0
        n_bytes += len(texts[-1])
    joined = np.concatenate(rows)
    if corpora[0].part:
        joined = joined[np.argsort(joined["number"], kind="stable")]
    return Records(joined, b"".join(texts), list(shards)), shards


def _link(source: Path, target: Path) -> None:
    """A second name of the same file, or a copy where the file system has no such."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copyfile(source, target)


# ---- tokens ----


class _Task(NamedTuple):
    data: str | bytes | None
    name: str
    keep_programs: Container[int] | None


class _Piece(NamedTuple):
    tokens: Tokens
    notes: int
    seconds: float
    mended: dict[str, int]


def _load(task: _Task) -> _Piece:
    """Runs in a worker: the tokens of one file, and what was mended in it."""
    from ritornello.codec import NOTE_OFF, encode, seconds_of
    from ritornello.midi import parse_midi, read_midi

    data, name = task.data, task.data if isinstance(task.data, str) else task.name
    if data is None:
        raise RitornelloError("holds nothing")
    read = partial(read_midi, data) if isinstance(data, str) else partial(parse_midi, data, name)
    try:
        piece = read(keep_programs=task.keep_programs)
    except RitornelloError as error:
        raise RitornelloError(str(error).removeprefix(f"{name}: ")) from None
    if not len(piece):
        raise RitornelloError("holds no notes")
    tokens = encode(piece)
    notes = int(np.count_nonzero(tokens < NOTE_OFF))
    return _Piece(tokens, notes, round(float(seconds_of(tokens)), 2), dict(piece.mended))


def _tokenise(
    sources: Iterator[tuple[int, Source]],
    total: int,
    spool: Path,
    keep_programs: Container[int] | None,
    workers: int | None,
    progress: Progress | None,
) -> tuple[Records, dict[str, list[Any]]]:
    """Reads every source; gives those that worked, whose tokens are in ``spool``, and the report on the others."""
    listed: deque[tuple[int, Source]] = deque()  # those whose results are still to come

    def tasks() -> Iterator[_Task]:
        for number, source in sources:
            listed.append((number, source._replace(data=None)))
            yield _Task(source.data, source.name, keep_programs)

    rows, text, start = bytearray(), bytearray(), 0  # a million pieces in a list would take a gigabyte
    skipped, mended = [], []
    with spool.open("wb") as file:
        for index, outcome in enumerate(map_items(_load, tasks(), workers=workers)):
            number, source = listed.popleft()
            if isinstance(outcome, Failure):
                skipped.append({"file": source.name, "reason": outcome.reason})
            else:
                tokens, notes, seconds, its_mended = outcome
                file.write(tokens.astype(TOKEN_TYPE, copy=False).data)
                split = (*SPLITS, "").index(source.split)
                row = (number, 0, split, 0, start, len(tokens), notes, seconds, len(text))
                rows += np.array(row, ROW).tobytes()
                text += line_of(source.composer, source.title, source.name)
                start += len(tokens)
                if its_mended:
                    mended.append({"file": source.name, "mended": its_mended})
            if progress:
                progress(index + 1, max(total, index + 1), source.name)
    records = Records(np.frombuffer(rows, ROW), bytes(text), ["spool"])
    return records, {"skipped": skipped, "mended": mended}


def _spooled(spool: Tokens, record: PieceRecord) -> Tokens:
    return spool[record.start : record.start + record.tokens]


# ---- writing ----


def _write_shards(rows: Rows, spool: Tokens, folder: Path, part: tuple[int, int] | None) -> tuple[Rows, dict[str, int]]:
    """Copies pieces from the spool into shards, split by split; gives their new rows, and the length of each shard."""
    shards: dict[str, int] = {}
    done = []
    for place, split in enumerate([f"part-{part[0]:04d}"] if part else SPLITS):
        for number, shard in enumerate(_packed(rows if part else rows[rows["split"] == place])):
            file, starts = f"{split}-{number:03d}.npy", shard["start"].copy()
            shard["start"], shard["shard"] = np.cumsum(shard["tokens"]) - shard["tokens"], len(shards)
            pieces = (spool[start : start + tokens] for start, tokens in zip(starts, shard["tokens"]))
            shards[file] = write_shard(folder / file, pieces)
            done.append(shard)
    return np.concatenate(done), shards


def _packed(rows: Rows) -> Iterator[Rows]:
    """Copies of consecutive rows whose pieces fit a shard."""
    room = SHARD_BYTES // TOKEN_TYPE.itemsize - 64  # the header is 128 bytes
    ends = np.cumsum(rows["tokens"], dtype=np.int64)
    first = 0
    while first < len(rows):
        before = int(ends[first - 1]) if first else 0
        behind = max(first + 1, int(np.searchsorted(ends, before + room, side="right")))
        yield rows[first:behind].copy()
        first = behind
