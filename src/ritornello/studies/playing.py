"""A set of pieces from each run's best checkpoint, for the metrics: all played alike, one file at a time."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, replace
from itertools import islice
from pathlib import Path

import numpy as np

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Performer, load
from ritornello.sampling import Sampling
from ritornello.studies.results import read_results, run_name, training_path
from ritornello.studies.settings import claim


def play_sets(
    out: Path,
    study: str,
    *,
    rows: list[str],
    pieces: int,
    tokens: int,
    sampling: Sampling,
    say: Callable[[str], None] = lambda _: None,
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
    for name, value in (("pieces", pieces), ("tokens", tokens)):
        if not 1 <= value <= 10**6:
            raise RitornelloError(f"{name} is {value}; it must lie between 1 and 1,000,000")
    results = read_results(out, study)
    done = dict.fromkeys(result["row"] for result in results)
    for row in rows:
        if row not in done:
            raise RitornelloError(f"{out}: no run of the row {row!r} is done; there are {'; '.join(done)}")
    claim(out / "sets", {"study": study, "tokens": tokens, **asdict(sampling)})
    for result in results:
        if not rows or result["row"] in rows:
            _play_set(out, result["row"], result["seed"], pieces, tokens, sampling, say)


def _play_set(
    out: Path, row: str, seed: int, pieces: int, tokens: int, sampling: Sampling, say: Callable[[str], None]
) -> None:
    folder = out / "sets" / run_name(row, seed)
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


def _path(folder: Path, number: int) -> Path:
    return folder / f"{number:03}.mid"
