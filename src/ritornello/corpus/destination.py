"""The folder that a corpus takes (`ritornello.files.whole_folder` makes it): may it be taken?"""

from __future__ import annotations

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
