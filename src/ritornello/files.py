"""Everything that is written, by one rule: whole or not at all, and nothing else comes to harm.

A file is made beside its place, under a short name, and takes it when it is complete. A symbolic link stays and its
target is updated; a file keeps its mode and owner, a new one has what the umask says. Devices, pipes, sockets and
open files under ``/dev/fd`` or ``/proc`` are written to, never replaced, and ``-`` is standard output; these get what
was made when it is complete. A process that is killed (-9) leaves at most a hidden ``.ritornello-*.part`` beside.
"""

from __future__ import annotations

import errno
import hashlib
import json
import os
import secrets
import shutil
import socket
import stat
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from pathlib import Path
from tempfile import SpooledTemporaryFile
from typing import IO, Any

from ritornello.errors import RitornelloError

STANDARD_OUTPUT = Path("-")
HELD_BYTES = 1 << 24  # of what goes to a pipe, in memory; more waits in a temporary file
CHECKSUM = "sha256"
OF_OPEN_FILES = ("/proc/", "/dev/fd")


def write_whole(path: Path, content: str | bytes) -> None:
    r"""Writes a file, making its folder if need be. Raises RitornelloError as `whole_file` does.

    Text is UTF-8. A name with bytes that are no text stands in it as ``\udcff``, which JSON reads as that name again.
    """
    with telling(path):
        path.parent.mkdir(parents=True, exist_ok=True)
    with whole_file(path) as file:
        file.write(content.encode("utf-8", "backslashreplace") if isinstance(content, str) else content)


@contextmanager
def whole_file(path: str | Path, *, sync: bool = False) -> Iterator[IO[bytes]]:
    """A file to write, which takes the place of ``path`` at the end; left early, nothing has changed.

    Args:
        path: a file's place, or ``-``.
        sync: have it on the disk before it takes its place.

    Raises:
        RitornelloError: naming the path, for every OSError on the way; what was there stays.
    """
    path = Path(path)
    with telling(path):
        stream = _stream(path)
        if stream is not None:
            with SpooledTemporaryFile(HELD_BYTES) as held:
                yield held
                held.seek(0)
                with stream() as out:
                    shutil.copyfileobj(held, out)
                    out.flush()
            return
        target, part = _places(path)
        try:
            with part.open("xb") as file:
                yield file
                file.flush()
                if sync:
                    os.fsync(file.fileno())
            with suppress(FileNotFoundError):
                _take_over(target.stat(), part)
            part.replace(target)
        except BaseException:
            part.unlink(missing_ok=True)
            raise


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A folder to fill, which takes the place of ``path`` at the end; left early, nothing has changed.

    An earlier folder is moved aside first and deleted last: where the new one cannot take its place, it comes back.

    Raises:
        RitornelloError: naming the path, for every OSError on the way.
    """
    target = Path(os.path.realpath(path))
    new, old = (target.with_name(f".ritornello-{secrets.token_hex(8)}.{end}") for end in ("part", "old"))
    try:
        with telling(path):
            target.parent.mkdir(parents=True, exist_ok=True)
            new.mkdir()
            yield new
            if target.exists():
                target.replace(old)
            try:
                new.replace(target)
            except OSError:
                if old.exists():
                    old.replace(target)
                raise
    finally:
        shutil.rmtree(new, ignore_errors=True)
    shutil.rmtree(old, ignore_errors=True)  # and only here: where it could not be put back, it is all there is


def check_writable(path: Path, *, inputs: Iterable[Path] = ()) -> None:
    """Refuses a file that could not be written, by trying, before work begins whose result it is to hold.

    Raises:
        RitornelloError: also where ``path`` is one of the ``inputs`` that the work reads.
    """
    if any(_is_same(path, source) for source in inputs):
        raise RitornelloError(f"{path}: is what is read; name another file, or give --force to write over it")
    if path == STANDARD_OUTPUT and sys.stdout.isatty():
        raise RitornelloError("standard output is a terminal; send it to a file or a program, or name a file")
    with telling(path):
        if path.is_dir():
            raise RitornelloError(f"{path}: is a folder; name a file in it")
        if _stream(path) is None:
            target, part = _places(path)
            if not target.parent.is_dir():
                raise RitornelloError(f"{path}: its folder does not exist; name a file in a folder that does")
            part.open("xb").close()
            part.unlink()
        elif path != STANDARD_OUTPUT and not os.access(path, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def with_checksum(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """A manifest and the checksum by which `without_checksum` knows that it says what was written."""
    return {**manifest, CHECKSUM: _checksum(manifest)}


def without_checksum(path: Path, manifest: Mapping[str, Any], remedy: str) -> dict[str, Any]:
    """The manifest alone. Raises RitornelloError if it was changed; those of earlier versions have no checksum."""
    if CHECKSUM in manifest and manifest[CHECKSUM] != _checksum(manifest):
        raise RitornelloError(f"{path}: was changed since it was written (checksum); {remedy}")
    return _alone(manifest)


@contextmanager
def telling(path: Path) -> Iterator[None]:
    """Makes every OSError on the way a RitornelloError that names the path."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG)
        remedy = "the disk is full, make room" if full else "name another place, or mend this one"
        raise RitornelloError(f"{path}: cannot be written ({error.strerror}); {remedy}") from None


def _checksum(manifest: Mapping[str, Any]) -> str:
    """Of what a manifest says as JSON, however that is laid out."""
    return hashlib.sha256(json.dumps(_alone(manifest), sort_keys=True).encode()).hexdigest()


def _alone(manifest: Mapping[str, Any]) -> dict[str, Any]:
    return {name: value for name, value in manifest.items() if name != CHECKSUM}


def _stream(path: Path) -> Callable[[], Any] | None:
    """What opens the thing that is there, if it is none to replace: a context manager of a file."""
    if path == STANDARD_OUTPUT:
        return lambda: nullcontext(sys.stdout.buffer)
    try:
        mode = path.stat().st_mode
    except FileNotFoundError:
        return None
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "it is a folder")
    if stat.S_ISSOCK(mode):
        return lambda: _connected(path)
    if stat.S_ISREG(mode) and not _is_open_file(path):
        return None
    # Appending: standard output may be a file that others have written to, or go on writing to.
    return lambda: os.fdopen(os.open(path, os.O_WRONLY | os.O_APPEND | getattr(os, "O_NOCTTY", 0)), "wb")


@contextmanager
def _connected(path: Path) -> Iterator[IO[bytes]]:
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(os.fspath(path))
        with client.makefile("wb") as file:
            yield file


def _is_same(one: Path, other: Path) -> bool:
    same = one.exists() and other.exists() and one.samefile(other)
    return same or os.path.realpath(one) == os.path.realpath(other)


def _is_open_file(path: Path) -> bool:
    """Whether a name stands for a file that some process has opened, as ``/dev/stdout`` does."""
    for _ in range(40):  # as many links as the system follows
        if os.path.realpath(path.parent).startswith(OF_OPEN_FILES):
            return True
        if not path.is_symlink():
            return False
        path = path.parent / path.readlink()
    return False


def _places(path: Path) -> tuple[Path, Path]:
    """The file that a path leads to, and where it is made."""
    target = Path(os.path.realpath(path))
    if target.exists() and not os.access(target, os.W_OK):
        raise PermissionError(errno.EACCES, "it is write-protected")
    return target, target.with_name(f".ritornello-{secrets.token_hex(8)}.part")


def _take_over(before: os.stat_result, part: Path) -> None:
    """Mode and owner of the file that was there."""
    if hasattr(os, "chown"):
        with suppress(OSError):
            os.chown(part, before.st_uid, before.st_gid)
    part.chmod(stat.S_IMODE(before.st_mode))
