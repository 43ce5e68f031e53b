"""Worker processes that cannot start end the program that wants them, whatever it gives them to do."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

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
