"""Files that are written whole or not at all, and what a picture is called."""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from ritornello.errors import RitornelloError
from ritornello.notes import Piece


@contextmanager
def whole(path: Path, what: str) -> Iterator[Path]:
    """A neighbour of ``path`` to write to, which takes its place at the end; left early, it is gone.

    Raises:
        RitornelloError: naming the file and ``what`` it was to hold, for every OSError on the way.
    """
    part = path.parent / f".{what}-{os.getpid()}-{threading.get_ident()}.part"
    try:
        try:
            yield part
            part.replace(path)
        finally:
            part.unlink(missing_ok=True)
    except OSError as error:
        raise RitornelloError(
            f"{path}: the {what} cannot be written ({error.strerror}); choose a folder that exists and is writable"
        ) from error


def heading(piece: Piece, path: Path, title: str | None) -> str:
    """A picture's heading: what was asked for, else the piece's title, else the file's name."""
    return piece.title or path.stem if title is None else title
