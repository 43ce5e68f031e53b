"""Human pieces to hold generated ones against: disjoint sets of held-out performances, each cut to so many tokens.

python tools/human_sets.py ASAP/asap-performances.csv sets/human sets/human-2 --pieces 32 --tokens 8192

One performance per title, from the validation and test splits or one of them, drawn with a seed. Generated pieces stop
at a number of tokens, so these do too: a whole sonata beside the first minutes of another piece differs in length
before all.
"""

from __future__ import annotations

import argparse
import csv
import random
from pathlib import Path

import numpy as np

from ritornello import codec, read_midi


def main() -> None:
    """Reads the arguments and writes the folders."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("table", type=Path, help="with MAESTRO's columns, beside the performances")
    parser.add_argument("out", type=Path, nargs="+", help="a folder for each set")
    parser.add_argument("--pieces", type=int, default=32, help="in each set")
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--splits", nargs="+", default=["validation", "test"])
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    with arguments.table.open(encoding="utf-8", newline="") as file:
        held_out = [row for row in csv.DictReader(file) if row["split"] in arguments.splits]
    rng = random.Random(arguments.seed)
    rng.shuffle(held_out)
    of_title = {(row["canonical_composer"], row["canonical_title"]): row for row in held_out}
    chosen = sorted(of_title.values(), key=lambda row: row["midi_filename"])
    rng.shuffle(chosen)
    wanted = arguments.pieces * len(arguments.out)
    if len(chosen) < wanted:
        parser.error(f"the table holds {len(chosen)} held-out titles; {wanted} are wanted")
    for number, row in enumerate(chosen[:wanted]):
        folder = arguments.out[number % len(arguments.out)]
        folder.mkdir(parents=True, exist_ok=True)
        tokens = codec.encode(read_midi(arguments.table.parent / row["midi_filename"]))[: arguments.tokens]
        piece = codec.decode(np.asarray(tokens))
        piece.write(folder / row["midi_filename"].replace("/", "_"))


if __name__ == "__main__":
    main()
