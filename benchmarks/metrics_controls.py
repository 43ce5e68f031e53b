"""What the metrics see: people beside people, and the same pieces spoilt in nine ways, each beside the same reference.

Reference are training pieces; the other side are held-out ones (validation and test), as played and disturbed; one
performance of each title. Pedals become note lengths. All is done for several draws of the pieces, for one draw alone
may flatter. The first column must be all but inside the null.

Example: python benchmarks/metrics_controls.py performances.csv --pieces 60 --draws 5
Example: python benchmarks/metrics_controls.py reference_dir other_dir
"""

from __future__ import annotations

import argparse
import csv
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from ritornello.metrics.comparison import TOLERANCE, Resampling, compare_feature
from ritornello.metrics.registry import STANDARD, extract
from ritornello.midi import read_midi
from ritornello.notes import Piece

GRID_S, BAR_S = 0.25, 2.0
DYNAMIC = 16  # velocities from one dynamic mark to the next

Values = dict[str, np.ndarray]
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


def louder(piece: Piece, rng: np.random.Generator) -> Piece:
    """By one dynamic mark, up to the loudest there is."""
    return replace(piece, velocity=np.minimum(piece.velocity.astype(int) + DYNAMIC, 127))


def pedal_lost(piece: Piece, rng: np.random.Generator) -> Piece:
    """Notes end when their keys are let go."""
    return replace(piece, pedals=np.zeros((0, 2)))


def quantised(piece: Piece, rng: np.random.Generator) -> Piece:
    """Onsets and releases on a grid of 0.25 s, at least one step apart; strikes that coincide are one."""
    piece = piece.without_pedal()
    onset = np.round(piece.onset / GRID_S) * GRID_S
    offset = np.maximum(np.round(piece.offset / GRID_S) * GRID_S, onset + GRID_S)
    kept = np.unique(np.stack([onset, piece.pitch]), axis=1, return_index=True)[1]
    return Piece(onset[kept], offset[kept], piece.pitch[kept], piece.velocity[kept])


def shuffled(piece: Piece, rng: np.random.Generator) -> Piece:
    """Pitches change places among the notes."""
    piece = piece.without_pedal()
    return replace(piece, pitch=rng.permutation(piece.pitch))


def looped(piece: Piece, rng: np.random.Generator) -> Piece:
    """The first 2 s from the middle on, again and again, as long as the piece."""
    piece = piece.without_pedal()
    begin = piece.onset[len(piece) // 2]
    bar = (piece.onset >= begin) & (piece.onset < begin + BAR_S)
    times = np.arange(int(piece.seconds / BAR_S) + 1)[:, None] * BAR_S
    onset = (piece.onset[bar] - begin + times).ravel()
    offset = (np.minimum(piece.offset[bar] - begin, BAR_S) + times).ravel()
    return Piece(onset, offset, np.tile(piece.pitch[bar], len(times)), np.tile(piece.velocity[bar], len(times)))


def random_notes(piece: Piece, rng: np.random.Generator) -> Piece:
    """Onsets anywhere; pitch, velocity and length each drawn on its own from those of the piece."""
    piece = piece.without_pedal()
    n = len(piece)
    onset = rng.uniform(piece.onset[0], piece.onset[-1], n)
    length = rng.choice(piece.offset - piece.onset, n)
    return Piece(onset, onset + length, rng.choice(piece.pitch, n), rng.choice(piece.velocity, n))


DISTURBANCES: dict[str, Disturbance] = {
    "as played": lambda piece, rng: piece,
    "transposed": transposed,
    "sped up": sped_up,
    "flat velocity": flattened,
    "louder": louder,
    "pedal lost": pedal_lost,
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


def stacked(pieces: Iterable[Piece]) -> Values:
    """Feature name -> (N, D) values."""
    rows = [extract(piece.without_pedal(), STANDARD) for piece in pieces]
    return {name: np.stack([np.ravel(row[name]).astype(np.float64) for row in rows]) for name in STANDARD}


def disturbed(others: list[Piece], seed: int) -> dict[str, Values]:
    """Name of each disturbance -> values of the pieces that it spoilt."""
    spoilt = {}
    for name, disturb in DISTURBANCES.items():
        rng = np.random.default_rng(seed)
        spoilt[name] = stacked(disturb(piece, rng) for piece in others)
    return spoilt


def outside(reference: Values, others: Values, resampling: Resampling) -> tuple[list[float], list[bool]]:
    """Of each feature: by how many widths it is outside, and whether an overlap area is."""
    found = [compare_feature(reference[name], others[name], resampling) for name in STANDARD]
    by_area = [
        any(figures[area]["score"] < figures[area]["null"][0] - TOLERANCE for area in ("oa_reference", "oa_generated"))
        for figures in found
    ]
    return [figures["verdict"]["widths_outside"] for figures in found], by_area


def drawn(values: Values, places: np.ndarray) -> Values:
    return {name: rows[places] for name, rows in values.items()}


def table(reference: Values, columns: dict[str, Values], *, pieces: int, draws: int, seed: int) -> Iterator[str]:
    """The table in Markdown, line by line, and what follows from it."""
    n, m = len(reference["PC"]), len(columns["as played"]["PC"])
    widths, by_area = (np.zeros((draws, len(columns), len(STANDARD))) for _ in range(2))
    for draw in range(draws):
        rng = np.random.default_rng([seed, draw])
        known, other = rng.permutation(n)[:pieces], rng.permutation(m)[:pieces]
        resampling = Resampling.draw(rng, reference=len(known), generated=len(other))
        for column, values in enumerate(columns.values()):
            widths[draw, column], by_area[draw, column] = outside(
                drawn(reference, known), drawn(values, other), resampling
            )
    middle = np.median(widths, axis=0)
    yield f"| feature | {' | '.join(columns)} |"
    yield f"|---|{'---:|' * len(columns)}"
    for name, cells in zip(STANDARD, middle.T):
        yield f"| {name} | {' | '.join(f'{cell:.1f}' if cell else '' for cell in cells)} |"
    fair = middle[0] == 0
    for title, counts in (
        ("seen by", (middle[:, fair] > 0).sum(axis=1)),
        ("in the worst draw by", (widths[:, :, fair] > 0).sum(axis=2).min(axis=0)),
        ("by overlap areas alone", (np.median(by_area, axis=0)[:, fair] > 0.5).sum(axis=1)),
    ):
        yield f"| **{title}** | {' | '.join(['', *map(str, counts[1:])])} |"
    people = (widths[:, 0] > 0).sum(axis=1)
    moved = middle[1:] > 0
    yield ""
    yield f"People beside people: outside are {', '.join(map(str, people))} of {len(STANDARD)} features in each draw."
    yield f"Outside for people, and counted for no disturbance: {listed_names(~fair)}."
    yield f"Moved by nothing: {listed_names(~moved.any(axis=0))}. By one alone: {listed_names(moved.sum(axis=0) == 1)}."


def listed_names(chosen: np.ndarray) -> str:
    return ", ".join(name for name, is_chosen in zip(STANDARD, chosen) if is_chosen) or "none"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a CSV with MAESTRO's columns, or a folder of reference MIDI files")
    parser.add_argument("others", type=Path, nargs="?", help="with a folder: the folder of the other side")
    parser.add_argument("--pieces", type=int, default=60, help="at most, a side")
    parser.add_argument("--draws", type=int, default=5, help="of pieces; cells are the median")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    rng = np.random.default_rng(arguments.seed)
    if arguments.others is None:
        sides = [listed(arguments.source, splits, rng) for splits in (("train",), ("validation", "test"))]
    else:
        sides = [found(folder, rng) for folder in (arguments.source, arguments.others)]
    begin_s = time.perf_counter()
    reference, others = ([read_midi(path) for path in side] for side in sides)
    lines = table(
        stacked(reference),
        disturbed(others, arguments.seed),
        pieces=arguments.pieces,
        draws=arguments.draws,
        seed=arguments.seed,
    )
    print(f"At most {arguments.pieces} of {len(reference)} pieces beside as many of {len(others)}, {arguments.draws}")
    print("draws. By how many of its widths a feature's worst score is outside the null's band: the median of the")
    print("draws; empty: inside, the feature does not see the difference.\n")
    print("\n".join(lines))
    print(f"\n{time.perf_counter() - begin_s:.0f} s")


if __name__ == "__main__":
    main()
