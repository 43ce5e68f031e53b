"""The pool of workers: no file can hold up or spoil the others, and workers that cannot start end the program."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

import pytest

from ritornello.corpus import workers
from ritornello.corpus.workers import Failure, map_files
from ritornello.errors import RitornelloError

UNGUARDED = """
from functools import partial
from ritornello.corpus.workers import map_files
print(list(map_files(partial(max, {first}), [b"2", b"3"], workers=2)))
"""
NOWHERE = """
import sys
from functools import partial
from types import ModuleType
from ritornello.corpus.workers import map_files

def chosen(first, second):
    return first

if __name__ == "__main__":
    chosen.__module__ = "only_in_the_parent"
    sys.modules["only_in_the_parent"] = module = ModuleType("only_in_the_parent")
    module.chosen = chosen
    print(list(map_files(partial(chosen, {first}), [b"2", b"3"], workers=2)))
"""


def treat(item: str) -> str:
    """What the pool's tests do with an item; runs in worker processes."""
    kind, _, rest = item.partition(" ")
    if kind == "crash":
        os.abort()
    if kind == "exit":
        os._exit(3)
    if kind == "hang":
        time.sleep(600)
    if kind == "fail":
        raise RitornelloError(rest)
    if kind == "bug":
        raise ValueError("first\nsecond")
    return item.upper()


@pytest.mark.parametrize("count", [1, 2])
def test_files_that_crash_or_hang_their_worker_cost_only_themselves(count):
    items = [f"fine {number}" for number in range(40)]
    bad = {3: "crash", 4: "crash", 20: "hang", 30: "exit", 38: "fail no music", 39: "bug"}
    for place, item in bad.items():
        items[place] = item
    outcomes = dict(map_files(treat, items, workers=count, timeout_s=1.0))
    assert sorted(outcomes) == list(range(40))
    failures = {place: outcome.reason for place, outcome in outcomes.items() if isinstance(outcome, Failure)}
    assert sorted(failures) == sorted(bad)
    assert "crashed" in failures[3]
    assert "crashed" in failures[4]
    assert failures[20] == "took longer than 1 s to read"
    assert "exit code 3" in failures[30]
    assert failures[38] == "no music"
    assert failures[39] == "ValueError: first second"
    assert all(outcomes[place] == items[place].upper() for place in range(40) if place not in bad)


def test_a_slow_batch_is_no_hang():
    items = ["fine"] * 8  # a batch of four takes longer than the limit, no item does
    assert dict(map_files(slow, items, workers=1, timeout_s=0.9)) == dict.fromkeys(range(8), "done")


def slow(_: str) -> str:
    time.sleep(0.3)
    return "done"


def test_an_abandoned_map_leaves_no_process():
    pool = workers.Pool(treat, ["fine", "hang", "hang"], workers=2, timeout_s=60)
    outcomes = pool.run()
    assert next(outcomes) == (0, "FINE")
    processes = [worker.process for worker in pool.workers]
    outcomes.close()
    assert not any(process.is_alive() for process in processes)


def test_nothing_to_map_starts_nothing():
    assert list(map_files(treat, [])) == []


def test_workers_that_cannot_start_get_one_line(tmp_path):
    script = tmp_path / "unguarded.py"
    script.write_text(
        "from ritornello.corpus.workers import map_files\nprint(dict(map_files(len, ['abc'], workers=1)))"
    )
    result = subprocess.run([sys.executable, script], capture_output=True, text=True, check=False)
    assert "RitornelloError: worker processes cannot start" in result.stderr.splitlines()[-1]


@pytest.mark.parametrize("script", [UNGUARDED, NOWHERE])
@pytest.mark.parametrize("first", ['b"1"', 'b"1" * 1_000_000'])  # more than a pipe holds
def test_a_worker_that_dies_while_it_starts_is_noticed(tmp_path: Path, script: str, first: str) -> None:
    path = tmp_path / "script.py"
    path.write_text(script.replace("{first}", first))
    done = subprocess.run([sys.executable, path], capture_output=True, text=True, timeout=100)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].endswith(
        "worker processes cannot start; in a script, put the call under if __name__ == '__main__':"
    )
