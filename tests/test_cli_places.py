"""Places that cannot be written: one line, code 2, and what was there before stays whole."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
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
    (free / "out.mid").chmod(0o666)
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


# ---- where music goes, and what is read ----


def test_what_is_read_is_not_written_over_without_force(command, model, tmp_path):
    song(3).write(tmp_path / "mine.mid")
    before = (tmp_path / "mine.mid").read_bytes()
    (tmp_path / "link.mid").symlink_to("mine.mid")
    options = ("--only-new", "--model", model, "--minutes", "0.05")
    for out in (tmp_path / "mine.mid", tmp_path / "link.mid"):
        assert_refused(command("continue", tmp_path / "mine.mid", out, *options), out, "--force")
    assert (tmp_path / "mine.mid").read_bytes() == before
    assert command("continue", tmp_path / "mine.mid", tmp_path / "link.mid", "--force", *options).code == 0
    assert (tmp_path / "mine.mid").read_bytes() != before
    assert (tmp_path / "link.mid").is_symlink()


def program(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "ritornello", *map(str, arguments)]


def test_music_goes_to_standard_output_and_to_pipes(command, model, tmp_path):
    wanted = ("--model", model, "--minutes", "0.2", "--seed", "1")
    assert command("generate", tmp_path / "new.mid", *wanted).code == 0
    music = (tmp_path / "new.mid").read_bytes()
    for place in ("-", "/dev/stdout"):
        done = subprocess.run(program("generate", place, *wanted), capture_output=True, timeout=120, check=True)
        assert done.stdout == music
    os.mkfifo(tmp_path / "pipe")
    with subprocess.Popen(["cat", tmp_path / "pipe"], stdout=subprocess.PIPE) as reader:
        assert command("generate", tmp_path / "pipe", *wanted).code == 0
        assert reader.communicate(timeout=60)[0] == music
    assert_refused(command("generate", "-", *wanted, "--json"), "--json")
    assert_refused(command("generate", tmp_path / "x.mid", *wanted, "--json", "--png", "-"), "named twice")
    assert_refused(command("generate", "-", *wanted, "--png", "-"), "named twice")


@pytest.mark.skipif(sys.platform == "win32", reason="signals are sent otherwise there")
def test_ctrl_c_keeps_what_was_played(model, tmp_path):
    """A day of music is asked for; the pipe is read when the program writes, which it does when it is stopped."""
    out = tmp_path / "day.mid"
    options = ("--minutes", "1440", "--full-length", "--model", model, "--seed", "1", "--json")
    with subprocess.Popen(program("generate", out, *options), stdout=subprocess.PIPE, stderr=subprocess.PIPE) as one:
        time.sleep(8)
        assert one.poll() is None, one.stderr.read()
        one.send_signal(signal.SIGINT)
        said, _ = one.communicate(timeout=60)
    assert one.returncode == 130
    figures = json.loads(said)
    assert 0 < figures["seconds"] < 86_400
    assert len(read_midi(out)) == figures["notes"] > 0
    assert [path.name for path in tmp_path.iterdir()] == ["day.mid"]
