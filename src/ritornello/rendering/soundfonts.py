"""Where a SoundFont comes from: the file named, or the environment variable."""

from __future__ import annotations

import os
from pathlib import Path

from ritornello.errors import RitornelloError

VARIABLE = "RITORNELLO_SOUNDFONT"


def find_soundfont(named: Path | None = None) -> Path | None:
    """``named``, else what the variable ``RITORNELLO_SOUNDFONT`` names, else None: the package's own piano plays.

    Raises:
        RitornelloError: if what is named is no SoundFont.
    """
    if named is not None:
        return _checked(named)
    in_variable = os.environ.get(VARIABLE)
    return _checked(Path(in_variable), f" (named by {VARIABLE})") if in_variable else None


def _checked(path: Path, by: str = "") -> Path:
    try:
        if _is_soundfont(path):
            return path
    except OSError as error:
        raise RitornelloError(f"{path}{by}: cannot be read ({error.strerror}); name a SoundFont") from None
    raise RitornelloError(f"{path}{by}: is no SoundFont; name a file that ends in .sf2 or .sf3")


def _is_soundfont(path: Path) -> bool:
    with path.open("rb") as file:
        head = file.read(12)
    return head[:4] == b"RIFF" and head[8:] == b"sfbk"
