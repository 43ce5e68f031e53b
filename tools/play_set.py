"""A set of pieces of so many tokens, or to their ends, from one model: piece n with seed n. What is there is kept.

python tools/play_set.py small sets/small --pieces 32 --tokens 8192
"""

from __future__ import annotations

import argparse
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
    parser.add_argument("--engine", choices=ENGINES, default=DEFAULT_ENGINE)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--temperature", type=float, default=1.0)
    parser.add_argument("--top-p", type=float, default=0.95)
    parser.add_argument("--min-p", type=float, default=0.0)
    arguments = parser.parse_args()
    sampling = Sampling(arguments.temperature, arguments.top_p, arguments.min_p)
    performer = load(arguments.model, engine=arguments.engine, sampling=sampling, threads=arguments.threads)
    arguments.out.mkdir(parents=True, exist_ok=True)
    for number in range(arguments.pieces):
        path = arguments.out / f"{number:03}.mid"
        if not path.exists():
            events = islice(performer.events(np.random.default_rng(number)), arguments.tokens)
            piece = codec.decode(np.array([token for token, _ in events], np.uint16))
            replace(piece, title=f"{arguments.model}, piece {number}").write(path)
            print(f"{path}: {len(piece):,} notes, {piece.seconds:,.0f} s", flush=True)


if __name__ == "__main__":
    main()
