"""A metric and a rendering format are one file each: put into a copy of the package, every verb finds it.

A family of models is tried in ``test_new_family``, a recipe in ``test_recipes``, schedules and studies in theirs.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

import ritornello
from ritornello.midi import read_midi
from ritornello.notes import Piece

PACKAGE = Path(ritornello.__file__).parent

Extended = Callable[..., str]


@pytest.fixture
def extended(tmp_path: Path) -> Extended:
    """Puts a file into a copy of the package and calls that with arguments; gives what it prints."""
    copy = tmp_path / "package/ritornello"
    shutil.copytree(PACKAGE, copy, ignore=shutil.ignore_patterns("__pycache__", "bundled", "page"))
    (copy / "bundled").symlink_to(PACKAGE / "bundled")

    def run(name: str, content: str, *arguments: object) -> str:
        (copy / name).write_text(content, encoding="utf-8")
        command = [sys.executable, "-m", "ritornello", *map(str, arguments)]
        environment = os.environ | {"PYTHONPATH": str(copy.parent)}
        done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


def test_a_metric_is_one_file(extended: Extended, tmp_path: Path) -> None:
    content = """
from ritornello.metrics.registry import feature

@feature("silence", "playing", "s", "how long it is silent before the first note")
def silence(piece):
    return float(piece.onset[0])
"""
    for folder, silence_s in (("human", 0.25), ("generated", 1.5)):
        (tmp_path / folder).mkdir()
        for number in range(4):
            notes = [(silence_s + number, silence_s + number + 1, 60 + number, 64)]
            Piece.from_notes(notes).write(tmp_path / folder / f"{number}.mid")
    told = extended("metrics/silence.py", content, "metrics", "human", "generated", "--preset", "playing", "--json")
    figures = json.loads(told)["features"]["silence"]
    means = figures["reference_mean"], figures["generated_mean"]
    assert (figures["unit"], *means) == ("s", pytest.approx(1.75), pytest.approx(3.0))


def test_a_rendering_format_is_one_file(extended: Extended, tmp_path: Path) -> None:
    content = '''"""Pitches, as text."""
from pathlib import Path

def write(piece, path, *, split_s):
    Path(path).write_text(f"{split_s} {piece.pitch.tolist()}")
'''
    Piece.from_notes([(0, 1, 60, 64), (0.5, 1, 64, 64)]).write(tmp_path / "mine.mid")
    asked = ("continue", "mine.mid", "on.mid", "--minutes", 0.02, "--seed", 1, "--txt", "on.txt", "--json")
    told = json.loads(extended("rendering/txt.py", content, *asked))
    assert told["txt"] == "on.txt"
    assert (tmp_path / "on.txt").read_text() == f"1.0 {read_midi(tmp_path / 'on.mid').pitch.tolist()}"
