"""The pool of workers: in order, from a stream; an odd file costs only itself, a dead worker ends the program."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ritornello.corpus.workers import WAITING_ITEMS, Failure, map_files
from ritornello.errors import RitornelloError

UNGUARDED = """
from functools import partial
from ritornello.corpus.workers import map_files
print(list(map_files(partial(max, {first}), [b"2", b"3"], workers=2)))
"""


def treat(item: str) -> str:
    """What the pool's tests do with an item; runs in worker processes."""
    kind, _, rest = item.partition(" ")
    if kind == "crash":
        os.abort()
    if kind == "slow":
        time.sleep(0.5)
    if kind == "fail":
        raise RitornelloError(rest)
    if kind == "bug":
        raise ValueError("first\nsecond")
    return item.upper()


@pytest.mark.parametrize("count", [1, 2])
def test_results_come_in_order_and_a_file_that_fails_costs_only_itself(count):
    items = ["slow", *(f"fine {number}" for number in range(40)), "fail no music", "bug", "fine"]
    outcomes = list(map_files(treat, iter(items), workers=count))
    assert [index for index, _ in outcomes] == list(range(44))
    assert [outcome for _, outcome in outcomes[41:43]] == [Failure("no music"), Failure("ValueError: first second")]
    assert [outcome for _, outcome in outcomes[:41]] == [item.upper() for item in items[:41]]


def test_a_stream_is_read_only_as_far_as_it_is_needed():
    taken = []

    def items() -> Iterator[str]:
        for number in range(10_000):
            taken.append(number)
            yield "fine"

    outcomes = map_files(treat, items(), workers=1)
    assert next(outcomes) == (0, "FINE")
    assert len(taken) <= WAITING_ITEMS + 1
    outcomes.close()
    assert len(taken) <= WAITING_ITEMS + 1


def test_a_worker_that_dies_ends_the_map_in_one_line():
    with pytest.raises(RitornelloError, match="cannot start, or one was killed"):
        list(map_files(treat, ["fine", "crash", "fine"], workers=2))


ENDLESS = """
import os, sys
from itertools import repeat
from ritornello.corpus.workers import map_files

def pid(_):
    return os.getpid()

if __name__ == "__main__":
    for _, worker in map_files(pid, repeat(0), workers=1):
        print(worker, flush=True)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="asks the system for a process by its number")
def test_workers_end_with_a_program_that_is_killed(tmp_path: Path) -> None:
    (tmp_path / "script.py").write_text(ENDLESS)
    with subprocess.Popen([sys.executable, tmp_path / "script.py"], stdout=subprocess.PIPE, text=True) as program:
        assert program.stdout
        worker = int(program.stdout.readline())
        program.kill()
    for _ in range(300):
        try:
            os.kill(worker, 0)
        except ProcessLookupError:
            return
        time.sleep(0.1)
    raise AssertionError("the worker is still there after 30 s")


def test_nothing_to_map_gives_nothing():
    assert list(map_files(treat, [])) == []


@pytest.mark.parametrize("first", ['b"1"', 'b"1" * 1_000_000'])  # more than a pipe holds
def test_workers_that_cannot_start_are_noticed(tmp_path: Path, first: str) -> None:
    path = tmp_path / "script.py"
    path.write_text(UNGUARDED.replace("{first}", first))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith("in a script, put the call under if __name__ == '__main__':")
