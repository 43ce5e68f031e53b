"""Training and playing with two threads beside a busy process: threads that spin while they wait, and that sleep.

    python benchmarks/beside_work.py data/asap

Spinning is the default of OpenMP and onnxruntime. A process that counts keeps one processor busy. Each figure is of a
fresh process: steps of the recipe ``study``, its first left out, or tokens of the bundled model ``small``, one by one.
Spinning and sleeping take turns, alone and beside the busy process; medians of all rounds.
"""

from __future__ import annotations

import argparse
import json
import multiprocessing
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

THREADS = 2


def main() -> None:
    """Measures all in turns and prints a table, or JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path, help="a packed corpus")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--steps", type=int, default=5, help="of training; as many times 40 tokens are played")
    parser.add_argument("--json", action="store_true", help="print figures as JSON")
    parser.add_argument("--of", choices=["training", "playing"], help=argparse.SUPPRESS)
    parser.add_argument("--spin", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.of:
        work = trained if arguments.of == "training" else played
        print(work(arguments))
        return
    rates: dict[str, list[float]] = {}
    for _ in range(arguments.rounds):
        for busy in (False, True):
            with beside(busy):
                for what in ("training", "playing"):
                    for spin in (True, False):
                        name = f"{what}, {'beside work' if busy else 'alone'}, {'spinning' if spin else 'sleeping'}"
                        rates.setdefault(name, []).append(fresh(arguments, what, spin))
    figures = {name: statistics.median(found) for name, found in rates.items()}
    if arguments.json:
        print(json.dumps(figures, indent=1))
        return
    for name, rate in figures.items():
        print(f"{name:34} {rate:9.1f} tokens/s")


@contextmanager
def beside(busy: bool) -> Iterator[None]:
    """A process that counts, or none."""
    process = multiprocessing.Process(target=_count, daemon=True)
    if busy:
        process.start()
    try:
        yield
    finally:
        if busy:
            process.terminate()


def _count() -> None:
    while True:
        pass


def fresh(arguments: argparse.Namespace, what: str, spin: bool) -> float:
    """Tokens/s in a process of its own, for OpenMP reads its settings once."""
    environment = {n: v for n, v in os.environ.items() if n not in ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT")}
    environment |= {"OMP_NUM_THREADS": str(THREADS)} | ({} if spin else {"OMP_WAIT_POLICY": "PASSIVE"})
    command = [sys.executable, __file__, str(arguments.data), "--of", what, "--steps", str(arguments.steps)]
    command += ["--spin"] if spin else []
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, check=True)
    return float(done.stdout)


def trained(arguments: argparse.Namespace) -> float:
    """Tokens/s of training steps, the first left out."""
    import torch

    from ritornello.corpus import Corpus
    from ritornello.models import build
    from ritornello.training.optimisers import Optimisers
    from ritornello.training.readers import reader_of
    from ritornello.training.recipes import study

    torch.set_num_threads(THREADS)
    recipe = study()
    model = build(recipe.model)
    reader, optimisers = reader_of(model, Corpus.open(arguments.data), recipe, 0), Optimisers(model, recipe)
    batches = [next(reader.feed) for _ in range(arguments.steps + 1)]
    for number, batch in enumerate(batches):
        if number == 1:
            began_s = time.perf_counter()
        reader.nats(batch, 1.0).mean().backward()
        optimisers.step(1e-3)
    return arguments.steps * recipe.step_tokens / (time.perf_counter() - began_s)


def played(arguments: argparse.Namespace) -> float:
    """Tokens/s of the bundled model, one by one, the first 20 left out."""
    import numpy as np

    from ritornello.engines import load_engine, runtime

    if arguments.spin:
        options: Any = runtime.ort.SessionOptions
        add = options.add_session_config_entry
        options.add_session_config_entry = lambda self, name, value: (
            None if name == "session.intra_op.allow_spinning" else add(self, name, value)
        )
    session = load_engine("base", threads=THREADS).begin()
    for number in range(20 + 40 * arguments.steps):
        if number == 20:
            began_s = time.perf_counter()
        session.score(np.array([number % 300]))
    return 40 * arguments.steps / (time.perf_counter() - began_s)


if __name__ == "__main__":
    main()
