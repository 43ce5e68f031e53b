"""Files are written whole or not at all, and what is there and is no plain file is written to, never replaced."""

from __future__ import annotations

import json
import os
import pty
import socket
import stat
import subprocess
import sys
import threading
from itertools import count
from pathlib import Path

import pytest
from conftest import full_disk, one_line

from ritornello.errors import RitornelloError
from ritornello.files import check_writable, whole_file, whole_folder, write_whole


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.rglob("*"))


class BrokenOffError(Exception):
    """What comes between."""


def broken_off(writing, mistake: BaseException | type[BaseException] = BrokenOffError) -> None:
    """Begins to write, and does not end."""
    with writing as place:
        if isinstance(place, Path):
            (place / "half").write_bytes(b"half")
        else:
            place.write(b"half")
        raise mistake


def write(path: Path, content: bytes = b"new") -> None:
    check_writable(path)
    with whole_file(path) as file:
        file.write(content)


# ---- plain files ----


def test_a_file_is_written_whole_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "new" / "file.txt"
    write_whole(path, "ä")
    write_whole(path, "ö")
    assert path.read_text(encoding="utf-8") == "ö"
    assert names(path.parent) == ["file.txt"]


@pytest.mark.parametrize("where", ["file/below", "folder", "n" * 300])
def test_a_place_that_cannot_be_written_is_one_error_and_stays_as_it_was(tmp_path: Path, where: str) -> None:
    (tmp_path / "file").write_text("mine")
    (tmp_path / "folder").mkdir()
    with pytest.raises(RitornelloError, match="cannot be written"):
        write_whole(tmp_path / where, "text")
    with pytest.raises(RitornelloError, match=r"cannot be written|is a folder|does not exist"):
        check_writable(tmp_path / where)
    assert names(tmp_path) == ["file", "folder"]
    assert (tmp_path / "file").read_text() == "mine"


@pytest.mark.parametrize("mistake", [KeyboardInterrupt, OSError(28, "No space left on device"), BrokenOffError])
def test_whatever_comes_between_leaves_the_older_file_alone(tmp_path: Path, mistake) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with pytest.raises((KeyboardInterrupt, RitornelloError, BrokenOffError)):
        broken_off(whole_file(path), mistake)
    assert (names(tmp_path), path.read_bytes()) == (["file"], b"old")


def test_a_disk_that_fills_leaves_the_older_file_alone(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    with full_disk(1000), pytest.raises(RitornelloError, match="cannot be written"):
        write(path, bytes(50_000))
    assert (names(tmp_path), path.read_bytes()) == (["file"], b"old")


def test_the_longest_names_that_the_file_system_takes_are_taken(tmp_path: Path) -> None:
    path = tmp_path / ("n" * os.pathconf(tmp_path, "PC_NAME_MAX"))
    write(path)
    write(path, b"again")
    assert path.read_bytes() == b"again"


def test_a_name_that_is_no_text_is_taken_and_told_in_json(tmp_path: Path) -> None:
    path = tmp_path / os.fsdecode(b"caf\xe9.json")
    write_whole(path, json.dumps({"file": path.name, "é": "é"}, ensure_ascii=False))
    assert json.loads(path.read_text(encoding="utf-8")) == {"file": path.name, "é": "é"}


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_a_new_file_has_the_umask_s_mode_and_an_old_one_keeps_its_own(tmp_path: Path, umask: int) -> None:
    path, before = tmp_path / "file", os.umask(umask)
    try:
        write(path)
        assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~umask
        for mode in (0o640, 0o755, 0o600):
            path.chmod(mode)
            write(path)
            assert stat.S_IMODE(path.stat().st_mode) == mode
    finally:
        os.umask(before)


def test_a_write_protected_file_is_left_alone(tmp_path: Path, monkeypatch) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"old")
    monkeypatch.setattr(os, "access", lambda *_: False)  # root may write everything
    for writing in (write, lambda path: write_whole(path, "new")):
        with pytest.raises(RitornelloError, match="write-protected"):
            writing(path)
    assert path.read_bytes() == b"old"


def test_of_a_symbolic_link_the_target_is_written_and_the_link_stays(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("second")
    (tmp_path / "second").symlink_to(Path("there") / "file")
    for content in (b"made", b"updated"):  # the target does not exist at first
        write(tmp_path / "link", content)
        assert (tmp_path / "there" / "file").read_bytes() == content
    assert (tmp_path / "link").is_symlink()
    assert (tmp_path / "second").is_symlink()
    assert names(tmp_path) == ["file", "link", "second", "there"]


def test_what_is_read_is_not_written_over_under_any_name(tmp_path: Path) -> None:
    mine = tmp_path / "mine"
    mine.write_bytes(b"mine")
    (tmp_path / "link").symlink_to(mine)
    (tmp_path / "twin").hardlink_to(mine)
    for path in (mine, tmp_path / "link", tmp_path / "twin", tmp_path / "x" / ".." / "mine"):
        with pytest.raises(RitornelloError, match="--force"):
            check_writable(path, inputs=[mine])
    check_writable(tmp_path / "new", inputs=[mine])


# ---- what is no plain file ----


def test_a_named_pipe_is_written_to_and_stays(tmp_path: Path) -> None:
    pipe, heard = tmp_path / "pipe", []
    os.mkfifo(pipe)
    reader = threading.Thread(target=lambda: heard.append(pipe.read_bytes()))
    reader.start()
    write(pipe, bytes(200_000))
    reader.join()
    assert heard == [bytes(200_000)]
    assert stat.S_ISFIFO(pipe.stat().st_mode)
    assert names(tmp_path) == ["pipe"]


def test_of_what_is_broken_off_a_pipe_hears_nothing(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    reading = os.open(pipe, os.O_RDONLY | os.O_NONBLOCK)
    with pytest.raises(BrokenOffError):
        broken_off(whole_file(pipe))
    assert os.read(reading, 10) == b""
    os.close(reading)


def test_a_device_is_written_to_and_stays() -> None:
    """A terminal of this process's own, which is a character device."""
    master, slave = pty.openpty()
    place = Path(os.ttyname(slave))
    before = place.stat()
    write(place, b"notes")
    assert os.read(master, 100) == b"notes"
    assert stat.S_ISCHR(place.stat().st_mode)
    assert place.stat().st_ino == before.st_ino
    os.close(master)
    os.close(slave)


def test_a_socket_is_written_to_and_stays(tmp_path: Path, monkeypatch) -> None:
    monkeypatch.chdir(tmp_path)  # such a name is short
    heard: list[bytes] = []
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket")
        server.listen()

        def listen() -> None:
            one, _ = server.accept()
            with one, one.makefile("rb") as file:
                heard.append(file.read())

        listener = threading.Thread(target=listen)
        listener.start()
        write(Path("socket"), bytes(100_000))
        listener.join()
    assert heard == [bytes(100_000)]
    assert stat.S_ISSOCK(Path("socket").stat().st_mode)
    with pytest.raises(RitornelloError, match="socket: cannot be written"):
        write(Path("socket"))  # nobody listens now


PROGRAM = """
import os, sys
from pathlib import Path
from ritornello.files import check_writable, whole_file
print("before", flush=True)
path = Path(sys.argv[1])
check_writable(path)
with whole_file(path) as file:
    file.write(b"notes")
"""


@pytest.mark.parametrize("place", ["-", "/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "link"])
@pytest.mark.parametrize("mode", ["wb", "ab"])
def test_standard_output_is_written_to_whatever_it_is(tmp_path: Path, place: str, mode: str) -> None:
    """Sent to a file too, where what others have written stays before it."""
    if place == "link":
        (tmp_path / "link").symlink_to("/dev/stdout")
    command = [sys.executable, "-c", PROGRAM, str(tmp_path / place) if place == "link" else place]
    said = subprocess.run(command, capture_output=True, check=True, timeout=60, cwd=tmp_path).stdout
    assert said == b"before\nnotes"
    (tmp_path / "out").write_bytes(b"")
    with (tmp_path / "out").open(mode) as out:
        out.write(b"first\n")
        out.flush()
        subprocess.run(command, stdout=out, check=True, timeout=60, cwd=tmp_path)
    assert (tmp_path / "out").read_bytes() == b"first\nbefore\nnotes"
    assert set(names(tmp_path)) <= {"out", "link"}


def test_nothing_is_sent_to_a_terminal(monkeypatch) -> None:
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with pytest.raises(RitornelloError, match="terminal"):
        check_writable(Path("-"))


# ---- folders ----


def test_a_folder_takes_its_place_when_it_is_complete(tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "link").symlink_to("there")
    for name in ("one", "two"):
        with whole_folder(tmp_path / "link") as new:
            (new / name).write_text(name)
            assert "two" not in names(tmp_path / "there")
    assert names(tmp_path) == ["link", "there", "two"]
    assert (tmp_path / "link").is_symlink()
    with pytest.raises(BrokenOffError):
        broken_off(whole_folder(tmp_path / "there"))
    assert names(tmp_path) == ["link", "there", "two"]


@pytest.mark.parametrize("refused", [(2,), (2, 3)], ids=["the new one", "the new one, and then the old one"])
def test_a_folder_whose_successor_cannot_take_its_place_is_not_lost(tmp_path: Path, monkeypatch, refused) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "mine").write_text("mine")
    replace, moves = Path.replace, count(1)

    def failing(self: Path, target: Path) -> Path:
        if next(moves) in refused:
            raise OSError(28, "No space left on device")
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", failing)
    with one_line(tmp_path / "there", "No space left"), whole_folder(tmp_path / "there") as new:
        (new / "half").write_text("half")
    monkeypatch.undo()
    (left,) = tmp_path.iterdir()
    assert names(left) == ["mine"]
    assert (left.name == "there") == (refused == (2,))
