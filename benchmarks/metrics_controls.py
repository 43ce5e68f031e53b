"""What the metrics see: people beside people, and the same pieces spoilt in seven ways, each beside the same reference.

Reference are training pieces; the other side are held-out ones (validation and test), as played and disturbed; one
performance of each title. Pedals become note lengths first. The first column must be all but inside the null.

Example: python benchmarks/metrics_controls.py performances.csv --pieces 60
Example: python benchmarks/metrics_controls.py reference_dir other_dir
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ritornello.metrics import Resampling, compare_feature, extract, select
from ritornello.midi import read_midi
from ritornello.notes import Piece

PRESETS = ("perceivers", "playing", "structure")
GRID_S, BAR_S = 0.25, 2.0

Disturbance = Callable[[Piece, np.random.Generator], Piece]


def transposed(piece: Piece, rng: np.random.Generator) -> Piece:
    """A fourth up."""
    return piece.transposed(5)


def sped_up(piece: Piece, rng: np.random.Generator) -> Piece:
    """By half: 1.5 times as fast."""
    return piece.stretched(1 / 1.5)


def flattened(piece: Piece, rng: np.random.Generator) -> Piece:
    """Every velocity is the piece's mean."""
    return replace(piece, velocity=np.full(len(piece), round(piece.velocity.mean())))


def quantised(piece: Piece, rng: np.random.Generator) -> Piece:
    """Onsets and releases on a grid of 0.25 s, at least one step apart; strikes that coincide are one."""
    onset = np.round(piece.onset / GRID_S) * GRID_S
    offset = np.maximum(np.round(piece.offset / GRID_S) * GRID_S, onset + GRID_S)
    kept = np.unique(np.stack([onset, piece.pitch]), axis=1, return_index=True)[1]
    return Piece(onset[kept], offset[kept], piece.pitch[kept], piece.velocity[kept])


def shuffled(piece: Piece, rng: np.random.Generator) -> Piece:
    """Pitches change places among the notes."""
    return replace(piece, pitch=rng.permutation(piece.pitch))


def looped(piece: Piece, rng: np.random.Generator) -> Piece:
    """The first 2 s from the middle on, again and again, as long as the piece."""
    begin = piece.onset[len(piece) // 2]
    bar = (piece.onset >= begin) & (piece.onset < begin + BAR_S)
    times = np.arange(int(piece.seconds / BAR_S) + 1)[:, None] * BAR_S
    onset = (piece.onset[bar] - begin + times).ravel()
    offset = (np.minimum(piece.offset[bar] - begin, BAR_S) + times).ravel()
    return Piece(onset, offset, np.tile(piece.pitch[bar], len(times)), np.tile(piece.velocity[bar], len(times)))


def random_notes(piece: Piece, rng: np.random.Generator) -> Piece:
    """Onsets anywhere; pitch, velocity and length each drawn on its own from those of the piece."""
    n = len(piece)
    onset = rng.uniform(piece.onset[0], piece.onset[-1], n)
    length = rng.choice(piece.offset - piece.onset, n)
    return Piece(onset, onset + length, rng.choice(piece.pitch, n), rng.choice(piece.velocity, n))


DISTURBANCES: dict[str, Disturbance] = {
    "as played": lambda piece, rng: piece,
    "transposed": transposed,
    "sped up": sped_up,
    "flat velocity": flattened,
    "coarse grid": quantised,
    "shuffled": shuffled,
    "one bar looped": looped,
    "random notes": random_notes,
}


def listed(table: Path, splits: tuple[str, ...], rng: np.random.Generator) -> list[Path]:
    """The files of these splits in random order, one performance of each title."""
    with table.open(encoding="utf-8", newline="") as lines:
        rows = [row for row in csv.DictReader(lines) if row["split"] in splits]
    shuffled_rows = [rows[i] for i in rng.permutation(len(rows))]
    titles = {(row["canonical_composer"], row["canonical_title"]): row["midi_filename"] for row in shuffled_rows}
    return [table.parent / name for name in titles.values()]


def found(folder: Path, rng: np.random.Generator) -> list[Path]:
    paths = sorted(path for path in folder.rglob("*") if path.suffix.lower() in (".mid", ".midi"))
    return [paths[i] for i in rng.permutation(len(paths))]


def stacked(pieces: list[Piece]) -> dict[str, np.ndarray]:
    """Feature name -> (N, D) values."""
    rows = [extract(piece, PRESETS) for piece in pieces]
    return {name: np.stack([np.ravel(row[name]).astype(np.float64) for row in rows]) for name in rows[0]}


def columns(reference: list[Piece], others: list[Piece], *, seed: int) -> Iterator[tuple[str, dict[str, float]]]:
    """Name of each disturbance, and by how many widths each feature is below the null; 0 inside."""
    known = stacked(reference)
    resampling = Resampling.draw(np.random.default_rng(seed), reference=len(reference), generated=len(others))
    for name, disturb in DISTURBANCES.items():
        rng = np.random.default_rng(seed)
        values = stacked([disturb(piece, rng) for piece in others])
        verdicts = {key: compare_feature(known[key], values[key], resampling)["verdict"] for key in known}
        yield name, {key: verdict["widths_below"] for key, verdict in verdicts.items()}


def markdown(table: dict[str, dict[str, float]]) -> Iterator[str]:
    yield f"| feature | {' | '.join(table)} |"
    yield f"|---|{'---:|' * len(table)}"
    for feature in select(PRESETS):
        cells = (column[feature.name] for column in table.values())
        yield f"| {feature.name} | {' | '.join(f'{cell:.1f}' if cell else '' for cell in cells)} |"
    yield f"| **seen by** | {' | '.join(str(sum(map(bool, column.values()))) for column in table.values())} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a CSV with MAESTRO's columns, or a folder of reference MIDI files")
    parser.add_argument("others", type=Path, nargs="?", help="with a folder: the folder of the other side")
    parser.add_argument("--pieces", type=int, default=60, help="at most, a side")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    if arguments.others is None:
        sides = [listed(arguments.source, splits, rng) for splits in (("train",), ("validation", "test"))]
    else:
        sides = [found(folder, rng) for folder in (arguments.source, arguments.others)]
    begin_s = time.perf_counter()
    reference, others = ([read_midi(path).without_pedal() for path in side[: arguments.pieces]] for side in sides)
    table = dict(columns(reference, others, seed=arguments.seed))
    print(f"{len(reference)} pieces beside {len(others)}, {time.perf_counter() - begin_s:.0f} s. Widths of the null's")
    print("band by which the overlap area lies below it; empty: inside, the feature does not see the difference.\n")
    print("\n".join(markdown(table)))


if __name__ == "__main__":
    main()
