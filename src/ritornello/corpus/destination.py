"""The folder that a corpus takes: made beside it and renamed at the end, so that nothing half-written is seen."""

from __future__ import annotations

import errno
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ritornello.corpus.shards import MANIFEST
from ritornello.errors import RitornelloError


def check_destination(destination: Path, sources: tuple[Path, ...], *, overwrite: bool) -> None:
    """Raises RitornelloError unless ``destination`` is free, or a corpus that may be replaced."""
    if not destination.exists():
        return
    if not destination.is_dir():
        raise RitornelloError(f"{destination}: is a file; give a folder to make")
    if not any(destination.iterdir()):
        return
    if not overwrite:
        raise RitornelloError(f"{destination}: exists already; give another folder, or ask to overwrite it")
    if not (destination / MANIFEST).is_file():
        raise RitornelloError(f"{destination}: is not a corpus, so it is not overwritten; give another folder")
    if any(destination.resolve() in (source.resolve(), *source.resolve().parents) for source in sources):
        raise RitornelloError(f"{destination}: holds the source; give another folder")


@contextmanager
def folder_in_the_making(destination: Path) -> Iterator[Path]:
    """A temporary sibling of ``destination`` that takes its place at the end, or vanishes on any error."""
    making: Path | None = None
    try:
        destination.parent.mkdir(parents=True, exist_ok=True)
        making = _new_sibling(destination)
        yield making
        _take_the_place(making, destination)
    except OSError as error:
        if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
            raise RitornelloError(f"{destination}: the disk is full; nothing was kept, make room") from None
        raise RitornelloError(f"{destination}: cannot be written ({error.strerror}); give another folder") from None
    finally:
        if making is not None:
            shutil.rmtree(making, ignore_errors=True)


def _take_the_place(making: Path, destination: Path) -> None:
    if not destination.exists():
        making.rename(destination)
        return
    aside = _new_sibling(destination)
    destination.rename(aside / "old")
    try:
        making.rename(destination)
    except OSError:
        (aside / "old").rename(destination)
        raise
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _new_sibling(destination: Path) -> Path:
    sibling = destination.with_name(f".{destination.name}.{secrets.token_hex(4)}.tmp")
    sibling.mkdir()  # not tempfile's, which nobody but the owner could read afterwards
    return sibling
