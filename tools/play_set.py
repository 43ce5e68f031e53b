"""A set of pieces of so many tokens, or to their ends, from one model, each with a seed. What is there is kept.

python tools/play_set.py base sets/base --pieces 32 --tokens 8192
"""

from __future__ import annotations

import argparse
import sys
from functools import partial
from pathlib import Path

from ritornello.engines import DEFAULT_ENGINE, ENGINES
from ritornello.sampling import Sampling
from ritornello.studies.table_one import play_set


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
    say = partial(print, file=sys.stderr)
    play_set(arguments.pop("model"), arguments.pop("out"), sampling, **arguments, say=say)


if __name__ == "__main__":
    main()
