"""Files that are written whole or not at all."""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from ritornello.errors import RitornelloError


def write_whole(path: Path, text: str) -> None:
    """Writes a text file by way of a neighbour, making its folder if need be.

    Raises:
        RitornelloError: naming the file, where it cannot be written; what was there stays.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(text, encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        with suppress(OSError):
            temporary.unlink()
        raise RitornelloError(f"{path}: cannot be written ({error.strerror}); give another place") from None
