"""A set of pieces of so many tokens, or to their ends, from one model, each with a seed. What is there is kept.

python tools/play_set.py small sets/small --pieces 32 --tokens 8192
"""

from __future__ import annotations

import argparse
import sys
from dataclasses import replace
from itertools import islice
from pathlib import Path

import numpy as np

from ritornello import codec
from ritornello.engines import DEFAULT_ENGINE, ENGINES
from ritornello.performing import load
from ritornello.sampling import Sampling


def main() -> None:
    """Reads the arguments and writes the folder."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("model", help="a bundled model's name, a checkpoint or an exported folder")
    parser.add_argument("out", type=Path)
    parser.add_argument("--pieces", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--first-seed", type=int, default=0, help="piece n has seed n more than that")
    parser.add_argument("--engine", choices=ENGINES, default=DEFAULT_ENGINE)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--temperature", type=float, default=Sampling.temperature)
    parser.add_argument("--top-p", type=float, default=Sampling.top_p)
    parser.add_argument("--min-p", type=float, default=Sampling.min_p)
    arguments = vars(parser.parse_args())
    sampling = Sampling(*(arguments.pop(name) for name in ("temperature", "top_p", "min_p")))
    play_set(arguments.pop("model"), arguments.pop("out"), sampling, **arguments)


def play_set(
    model: str,
    out: Path,
    sampling: Sampling,
    *,
    pieces: int,
    tokens: int,
    first_seed: int,
    engine: str,
    threads: int | None,
) -> None:
    """Writes what is missing of ``out/000.mid`` and on, and a line of each."""
    performer = load(model, engine=engine, sampling=sampling, threads=threads)
    out.mkdir(parents=True, exist_ok=True)
    for number in range(pieces):
        path = out / f"{number:03}.mid"
        if not path.exists():
            events = islice(performer.events(np.random.default_rng(first_seed + number)), tokens)
            piece = codec.decode(np.array([token for token, _ in events], np.uint16))
            replace(piece, title=f"{model}, seed {first_seed + number}").write(path)
            print(f"{path}: {len(piece):,} notes, {piece.seconds:,.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
