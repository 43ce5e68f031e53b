"""How long a folder's MIDI files take to become packed shards: whole processes, the interpreter's start included.

Example: python benchmarks/prepare.py path/to/performances.csv
"""

from __future__ import annotations

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from ritornello.corpus import Corpus

RUN_ONCE = "import sys; from ritornello.corpus.prepare import prepare; prepare(*sys.argv[1:])"


def run_once(source: str, destination: Path) -> float:
    """Seconds of one whole process."""
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(path for path in sys.path if path)}
    begin_s = time.perf_counter()
    subprocess.run([sys.executable, "-c", RUN_ONCE, source, str(destination)], check=True, env=environment)
    return time.perf_counter() - begin_s


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", help="a CSV with MAESTRO's columns, or a folder of MIDI files")
    parser.add_argument("--runs", type=int, default=5)
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        seconds = [run_once(arguments.source, Path(folder, str(run))) for run in range(arguments.runs)]
        corpus = Corpus.open(Path(folder, "0"))
    notes = sum(record.notes for record in corpus.records)
    tokens = sum(record.tokens for record in corpus.records)
    median_s = statistics.median(seconds)
    print(f"{len(corpus.records)} pieces, {notes} notes, {tokens} tokens, {len(corpus.report['skipped'])} skipped")
    print(f"{median_s:.2f} s (median of {arguments.runs}, {min(seconds):.2f} to {max(seconds):.2f})")
    print(f"{notes / median_s:,.0f} notes/s on {os.cpu_count()} processors")


if __name__ == "__main__":
    main()
