"""Places that cannot be written: one line, code 2, and what was there before stays whole."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
from command import assert_empty, assert_refused, song
from conftest import full_disk

from ritornello.midi import read_midi
from ritornello.performing import Performer

NOBODY = 65534


@pytest.mark.parametrize("which", ["music", "picture"])
@pytest.mark.parametrize("place", ["missing/new.mid", "folder", "n" * 300 + ".mid"])
def test_a_place_that_cannot_be_written_is_refused_before_any_music_is_played(
    command, tmp_path, place, which, monkeypatch
):
    """Not even the model is loaded: there is none of that name."""
    monkeypatch.setattr("ritornello.performing.load", None)
    (tmp_path / "folder").mkdir()
    song(4).write(tmp_path / "mine.mid")
    out, png = tmp_path / place, tmp_path / "new.png"
    if which == "picture":
        out, png = tmp_path / "new.mid", tmp_path / place
    assert_refused(command("generate", out, "--png", png), tmp_path / place)
    assert_refused(command("continue", tmp_path / "mine.mid", out, "--png", png), tmp_path / place)
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["folder", "mine.mid"]


def test_the_picture_may_not_take_the_music_s_place(command, model, tmp_path):
    out = tmp_path / "new.mid"
    assert_refused(command("generate", out, "--model", model, "--png", out), out, "another file")
    assert_empty(tmp_path)


def test_a_disk_that_fills_leaves_no_half_file(command, model, tmp_path):
    wanted = ("generate", tmp_path / "new.mid", "--model", model, "--minutes", "0.2", "--seed", "1")
    with full_disk(60):
        outcome = command(*wanted)
    assert_refused(outcome, tmp_path / "new.mid", "cannot be written")
    assert_empty(tmp_path)
    assert command(*wanted).code == 0
    assert (tmp_path / "new.mid").stat().st_size > 60, "else the disk was not too small"


def test_a_disk_that_fills_leaves_the_older_file_as_it_was(command, model, tmp_path):
    song(3).write(tmp_path / "mine.mid")
    before = (tmp_path / "mine.mid").read_bytes()
    with full_disk(60):
        outcome = command(
            "continue", tmp_path / "mine.mid", tmp_path / "mine.mid", "--model", model, "--minutes", "0.2"
        )
    assert_refused(outcome, tmp_path / "mine.mid", "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["mine.mid"]
    assert (tmp_path / "mine.mid").read_bytes() == before


def test_a_disk_too_small_for_the_picture_keeps_the_music(command, model, tmp_path):
    out, png = tmp_path / "new.mid", tmp_path / "new.png"
    with full_disk(4000):
        outcome = command("generate", out, "--model", model, "--minutes", "0.2", "--seed", "1", "--png", png)
    assert_refused(outcome, png, "cannot be written")
    assert [path.name for path in tmp_path.iterdir()] == ["new.mid"]
    assert len(read_midi(out))


def test_a_disk_that_fills_in_training_gets_one_line(command, corpus, tmp_path):
    with full_disk(20_000):
        options = ("--recipe", "tiny", "--steps", "2", "--device", "cpu")
        outcome = command("train", "--data", corpus, "--out", tmp_path / "run", *options)
    assert outcome.code == 2
    assert "Traceback" not in outcome.err
    assert outcome.err.splitlines()[-1].startswith("error: "), outcome.err
    assert not list(tmp_path.rglob("*.safetensors*"))


@pytest.mark.skipif(not hasattr(os, "setresuid"), reason="needs a way to lose rights")
def test_without_the_right_to_read_or_write_there_is_one_line(command, model, tmp_path, monkeypatch):
    """Everything is run once with all rights first, so that nothing need be imported without them."""
    closed = tmp_path / "closed"
    (closed / "songs").mkdir(parents=True)
    for folder in (closed, closed / "songs"):
        song(4).write(folder / "mine.mid")
    free, readable = tmp_path / "free", tmp_path / "readable"
    free.mkdir()
    readable.mkdir()
    commands = {
        ("data", "prepare", closed, free / "corpus"): closed,
        ("data", "prepare", closed / "songs", free / "corpus"): closed / "songs",
        ("continue", closed / "mine.mid", free / "out.mid", "--model", model): closed / "mine.mid",
        ("generate", closed / "out.mid", "--model", model, "--minutes", "0.01"): closed / "out.mid",
        ("generate", free / "out.mid", "--model", closed / "songs"): closed / "songs",
        ("generate", readable / "out.mid", "--model", closed / "songs"): readable / "out.mid",
    }
    assert command("generate", free / "out.mid", "--model", model, "--minutes", "0.01").code == 0
    assert_refused(command("data", "prepare", tmp_path / "nowhere", tmp_path / "corpus"))
    monkeypatch.setattr(Performer, "stream", None)
    names = sorted(tmp_path.rglob("*"))
    free.chmod(0o777)
    readable.chmod(0o555)
    with losing_rights(closed):
        outcomes = {wanted: command(*wanted) for wanted in commands}
    for wanted, named in commands.items():
        assert_refused(outcomes[wanted], named)
    assert sorted(tmp_path.rglob("*")) == names


@contextmanager
def losing_rights(closed: Path) -> Iterator[None]:
    """Nothing in the folder can be reached. Root can reach everything, so it becomes nobody for a while."""
    is_root = os.geteuid() == 0
    shut = [path for path in closed.parents if is_root and path.stat().st_mode & 0o055 != 0o055]
    modes = {path: path.stat().st_mode for path in (closed, *shut)}
    closed.chmod(0)
    for path in shut:
        path.chmod(modes[path] | 0o055)
    if is_root:
        os.setresuid(NOBODY, NOBODY, 0)
    try:
        yield
    finally:
        if is_root:
            os.setresuid(0, 0, 0)
        for path, mode in modes.items():
            path.chmod(mode)
