"""The pool of workers: in order, from a stream; an odd file costs only itself, a dead worker ends the program."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from ritornello.errors import RitornelloError
from ritornello.workers import WAITING_ITEMS, Failure, map_items

UNGUARDED = """
from functools import partial
from ritornello.workers import map_items
print(list(map_items(partial(max, {first}), [b"2", b"3"], workers=2)))
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
    outcomes = list(map_items(treat, iter(items), workers=count))
    assert len(outcomes) == 44
    assert outcomes[41:43] == [Failure("no music"), Failure("ValueError: first second")]
    assert outcomes[:41] == [item.upper() for item in items[:41]]


def test_a_stream_is_read_only_as_far_as_it_is_needed():
    taken = []

    def items() -> Iterator[str]:
        for number in range(10_000):
            taken.append(number)
            yield "fine"

    outcomes = map_items(treat, items(), workers=2)
    assert next(outcomes) == "FINE"
    assert len(taken) <= 2 * WAITING_ITEMS + 1
    outcomes.close()
    assert len(taken) <= 2 * WAITING_ITEMS + 1


def test_a_worker_that_dies_ends_the_map_in_one_line():
    with pytest.raises(RitornelloError, match="cannot start, or one was killed"):
        list(map_items(treat, ["fine", "crash", "fine"], workers=2))


ENDLESS = """
import os, sys
from itertools import repeat
from ritornello.workers import map_items

def pid(_):
    return os.getpid()

if __name__ == "__main__":
    for worker in map_items(pid, repeat(0), workers=2):
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
    assert list(map_items(treat, [])) == []


@pytest.mark.parametrize("first", ['b"1"', 'b"1" * 1_000_000'])  # more than a pipe holds
def test_workers_that_cannot_start_are_noticed(tmp_path: Path, first: str) -> None:
    path = tmp_path / "script.py"
    path.write_text(UNGUARDED.replace("{first}", first))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    # Python's resource tracker may have a word to say behind it.
    ending = "in a script, put the call under if __name__ == '__main__':"
    assert any(line.endswith(ending) for line in done.stderr.splitlines()), done.stderr
