"""Where a SoundFont comes from: the file named, the environment variable, or the places where systems keep them."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

from ritornello.errors import RitornelloError

VARIABLE = "RITORNELLO_SOUNDFONT"
SUFFIXES = (".sf2", ".sf3")
FREE_ONE = {
    "linux": "install one (Debian, Ubuntu: apt install fluid-soundfont-gm; Fedora: dnf install fluid-soundfont-gm; "
    "Arch: pacman -S soundfont-fluid)",
    "darwin": "put a free one, such as FluidR3_GM.sf2 or MuseScore_General.sf3, into ~/Library/Audio/Sounds/Banks",
    "win32": r"put a free one, such as FluidR3_GM.sf2 or MuseScore_General.sf3, into C:\ProgramData\soundfonts",
}


def find_soundfont(named: Path | None = None) -> Path:
    """``named``, else what the variable ``RITORNELLO_SOUNDFONT`` names, else the first that the system has.

    In a folder with several, the one that the system or its user made the default (``default*``) comes first.

    Raises:
        RitornelloError: if there is none, or the named one is no SoundFont.
    """
    if named is not None:
        return _checked(named)
    if in_variable := os.environ.get(VARIABLE):
        return _checked(Path(in_variable), f" (named by {VARIABLE})")
    for folder in folders():
        for path in _soundfonts_in(folder):
            return path
    how = FREE_ONE.get(sys.platform, FREE_ONE["linux"])
    raise RitornelloError(f"there is no SoundFont for --wav; {how}, or name a file with --soundfont or {VARIABLE}")


def folders() -> Iterator[Path]:
    """Where this system keeps SoundFonts, the user's own places first.

    On Linux the data folders of the XDG base directory specification, with the names that Debian (``sounds/sf2``) and
    Fedora and Arch (``soundfonts``) use; on macOS Apple's Banks and Homebrew's share; on Windows FluidSynth's default.
    MuseScore's folder is the same everywhere.
    """
    home = Path.home()
    if sys.platform == "win32":
        yield from (home / "soundfonts", Path(os.environ.get("PROGRAMDATA", r"C:\ProgramData")) / "soundfonts")
        yield Path(r"C:\soundfonts")
    elif sys.platform == "darwin":
        yield from (home / "Library/Audio/Sounds/Banks", Path("/Library/Audio/Sounds/Banks"))
        yield from (Path("/opt/homebrew/share/soundfonts"), Path("/usr/local/share/soundfonts"))
    else:
        of_user = os.environ.get("XDG_DATA_HOME") or str(home / ".local/share")
        of_system = os.environ.get("XDG_DATA_DIRS") or "/usr/local/share:/usr/share"
        for share in [of_user, *of_system.split(":")]:
            yield from (Path(share) / name for name in ("soundfonts", "sounds/sf2", "sounds/sf3"))
    yield from (home / "Documents" / version / "SoundFonts" for version in ("MuseScore4", "MuseScore3"))


def _soundfonts_in(folder: Path) -> Iterator[Path]:
    with suppress(OSError):
        for path in sorted(folder.iterdir(), key=_rank):
            with suppress(OSError):
                if path.suffix.lower() in SUFFIXES and _is_soundfont(path):
                    yield path


def _rank(path: Path) -> tuple[bool, str]:
    return not path.name.lower().startswith("default"), path.name.lower()


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
