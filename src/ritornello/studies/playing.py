"""Sets of pieces for the metrics: what each run's best checkpoint plays, all drawn alike, and what people played."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from ritornello import codec
from ritornello.corpus import Corpus, PieceRecord
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Performer, load
from ritornello.reports.sets import LEAST_PIECES
from ritornello.sampling import Sampling
from ritornello.studies.results import Result, read_results, run_name, training_path
from ritornello.studies.settings import claim

HUMAN = ("human", "human-2")
Say = Callable[[str], None]


class Sets(NamedTuple):
    """Folders of MIDI files, and what is alike of all."""

    human: list[Path]
    """the reference and, where the corpus holds out enough titles, a second set"""
    played: dict[tuple[str, int], Path]
    """by row and seed"""
    corpus: str
    """name of that which people's pieces are of"""
    pieces: int
    tokens: int
    sampling: Sampling


def play_sets(
    out: Path,
    study: str,
    *,
    rows: list[str],
    pieces: int,
    tokens: int,
    sampling: Sampling,
    say: Say = lambda _: None,
) -> None:
    """Plays what is not there yet of ``out/sets/ROW-seed-N/*.mid``.

    Args:
        out: folder of a study whose runs are done.
        study: its name.
        rows: only these; none: all.
        pieces: of each run. Piece n is drawn with seed n from every model.
        tokens: length of a piece, unless the model ends it before.
        sampling: how tokens are drawn.
        say: called with one line after each piece.

    Raises:
        RitornelloError: for a row or a checkpoint that is not there, or sets that were played otherwise.
    """
    results = _asked_for(out, study, rows, pieces=pieces, tokens=tokens)
    _claim(out, study, tokens, sampling)
    for result in results:
        _play_set(out, result, pieces, tokens, sampling, say)


def make_sets(
    corpus: Corpus,
    out: Path,
    study: str,
    *,
    rows: list[str],
    pieces: int,
    tokens: int,
    sampling: Sampling,
    say: Say = lambda _: None,
) -> Sets:
    """`play_sets`, and people's beside them: what is not there yet of ``out/sets/human`` and ``out/sets/human-2``.

    People's pieces are of the validation and test splits of the corpus that the runs were trained on, one performance
    of a title, cut to as many tokens. Of every set there are so many pieces, at least 4.

    Raises:
        RitornelloError: as `play_sets`, and, before anything is written, for another corpus than the runs', one that
            holds out too few titles, or a folder that holds more pieces.
    """
    results = _asked_for(out, study, rows, pieces=pieces, tokens=tokens, least=LEAST_PIECES)
    _check_same_data(corpus, results)
    human = {out / "sets" / name: records for name, records in zip(HUMAN, _held_out(corpus, pieces))}
    played = {(found["row"], found["seed"]): _folder(out, found) for found in results}
    sets = Sets([*human], played, corpus.name, pieces, tokens, sampling)
    for folder in (*sets.human, *sets.played.values()):
        there = len([*folder.glob("*.mid")])
        if there > pieces:
            raise RitornelloError(f"{folder}: holds {there} pieces, not {pieces}; ask for as many, or move it away")
    _claim(out, study, tokens, sampling)
    claim(sets.human[0], {"study": study, **_data_of(corpus)})
    for folder, records in human.items():
        _cut_set(corpus, folder, records, tokens)
        say(f"{folder}: {len(records)} pieces")
    for result in results:
        _play_set(out, result, pieces, tokens, sampling, say)
    return sets


def _asked_for(out: Path, study: str, rows: list[str], *, pieces: int, tokens: int, least: int = 1) -> list[Result]:
    """The finished runs of the rows."""
    for name, value, low in (("pieces", pieces, least), ("tokens", tokens, 1)):
        if not low <= value <= 10**6:
            raise RitornelloError(f"{name} is {value}; it must lie between {low} and 1,000,000")
    results = read_results(out, study)
    done = dict.fromkeys(result["row"] for result in results)
    for row in rows:
        if row not in done:
            raise RitornelloError(f"{out}: no run of the row {row!r} is done; there are {'; '.join(done)}")
    return [result for result in results if not rows or result["row"] in rows]


def _claim(out: Path, study: str, tokens: int, sampling: Sampling) -> None:
    claim(out / "sets", {"study": study, "tokens": tokens, **asdict(sampling)})


def _data_of(corpus: Corpus) -> dict[str, object]:
    tokens = {split: sum(record.tokens for record in corpus.pieces(split)) for split in ("train", "validation")}
    return {"corpus": corpus.name, "corpus_tokens": tokens}


def _check_same_data(corpus: Corpus, results: list[Result]) -> None:
    """Pieces that another corpus holds out, a run may have been trained on."""
    ours = _data_of(corpus)
    for result in results:
        theirs = {name: result["settings"][name] for name in ours}
        if theirs != ours:
            raise RitornelloError(
                f"{corpus.path}: is not what {result['row']}, seed {result['seed']}, was trained on: "
                f"{theirs['corpus']}, {theirs['corpus_tokens']['train']:,} tokens to train on; give that corpus"
            )


def _held_out(corpus: Corpus, pieces: int) -> list[list[PieceRecord]]:
    """One or two disjoint sets of titles; more ``pieces`` add to each and change none."""
    rng = np.random.default_rng(0)
    records = [record for record in corpus.records if record.split != "train"]
    of_title = {(records[i].composer, records[i].title): records[i] for i in rng.permutation(len(records))}
    titles = sorted(of_title)
    drawn = [of_title[titles[i]] for i in rng.permutation(len(titles))]
    if len(drawn) < pieces:
        raise RitornelloError(
            f"{corpus.path}: its validation and test splits hold {len(drawn)} titles, too few for {pieces} pieces; ask "
            "for fewer"
        )
    return [drawn[:pieces], drawn[: -pieces - 1 : -1]][: 1 if len(drawn) < 2 * pieces else 2]


def _cut_set(corpus: Corpus, folder: Path, records: list[PieceRecord], tokens: int) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for number, record in enumerate(records):
        if not (path := _path(folder, number)).exists():
            replace(codec.decode(corpus.tokens(record)[:tokens]), title=record.file).write(path)


def _play_set(out: Path, result: Result, pieces: int, tokens: int, sampling: Sampling, say: Say) -> None:
    row, seed, folder = result["row"], result["seed"], _folder(out, result)
    left = [n for n in range(pieces) if not _path(folder, n).exists()]
    if not left:
        return
    performer = load(str(training_path(out, row, seed) / "best"), engine="torch", sampling=sampling)
    folder.mkdir(parents=True, exist_ok=True)
    for number in left:
        piece = _played(performer, seed=number, tokens=tokens)
        path = _path(folder, number)
        replace(piece, title=f"{row}, seed {seed}, piece {number}").write(path)
        say(f"{path}: {len(piece):,} notes, {piece.seconds:,.0f} s")


def _played(performer: Performer, *, seed: int, tokens: int) -> Piece:
    events = [token for token, _ in islice(performer.events(np.random.default_rng(seed)), tokens)]
    return codec.decode(np.array(events, np.uint16))


def _folder(out: Path, result: Result) -> Path:
    return out / "sets" / run_name(result["row"], result["seed"])


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:03}.mid"
