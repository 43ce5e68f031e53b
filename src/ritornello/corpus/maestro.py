"""MAESTRO v3.0.0 from its official archive: download, verify, prepare with the official splits.

Hawthorne et al., "Enabling Factorized Piano Music Modeling and Generation with the MAESTRO Dataset", ICLR 2019;
licence CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import hashlib
import http.client
import os
import tempfile
import urllib.error
import urllib.request
import zipfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from ritornello.corpus.prepare import Progress, prepare
from ritornello.corpus.shards import Corpus, check_destination
from ritornello.errors import RitornelloError

CSV_NAME = "maestro-v3.0.0.csv"
WANTED_SUFFIXES = (".mid", ".midi", ".csv")
LICENCE = "CC BY-NC-SA 4.0"
CHUNK_BYTES = 2**18
TIMEOUT_S = 30.0  # of a connection that says nothing


@dataclass(frozen=True)
class Archive:
    """What the official archive is known by."""

    name: str = "maestro-v3.0.0-midi.zip"
    url: str = "https://storage.googleapis.com/magentadata/datasets/maestro/v3.0.0/maestro-v3.0.0-midi.zip"
    size_bytes: int = 58_416_533
    sha256: str = "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"


OFFICIAL = Archive()


def fetch(
    destination: str | Path,
    *,
    archive: str | Path | None = None,
    official: Archive = OFFICIAL,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Makes the corpus ``destination`` from MAESTRO's archive.

    Without ``archive`` it is downloaded beside ``destination`` and kept there, so that a second call need not load it
    again.

    Raises:
        RitornelloError: if the archive cannot be had or is not the official one, and as `prepare`.
    """
    destination = Path(destination)
    check_destination(destination, (), overwrite=overwrite)
    if archive is not None:
        path = Path(archive)
        problem = _problem(path, official)
        if problem:
            raise RitornelloError(f"{path}: {problem}; download it again from {official.url}")
    else:
        path = destination.parent / official.name
        if not path.exists() or _problem(path, official):
            download(path, official, progress=progress)
    with _unpacked(path, destination.parent) as folder:
        return prepare(
            folder,
            destination,
            csv=_find_csv(Path(folder), path),
            name="MAESTRO v3.0.0",
            licence=LICENCE,
            workers=workers,
            overwrite=overwrite,
            progress=progress,
        )


def _problem(path: Path, official: Archive) -> str:
    """What keeps a file from being the archive; empty if it is the archive."""
    try:
        size_bytes = path.stat().st_size
        if size_bytes != official.size_bytes:
            return f"has {size_bytes} bytes, {official.name} has {official.size_bytes}"
        digest = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK_BYTES):
                digest.update(chunk)
    except OSError as error:
        return f"cannot be read ({error.strerror})"
    return "" if digest.hexdigest() == official.sha256 else f"has not the checksum of {official.name}"


def download(path: Path, official: Archive, *, progress: Progress | None = None) -> None:
    """Loads the archive into ``path``. Raises RitornelloError if it cannot be had, or is not the ``official`` one."""
    url, part = official.url, path.with_name(f"{path.name}.{os.getpid()}.part")
    done_bytes = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with urllib.request.urlopen(url, timeout=TIMEOUT_S) as reply, part.open("wb") as file:
            while done_bytes <= official.size_bytes and (chunk := reply.read(CHUNK_BYTES)):
                file.write(chunk)
                done_bytes += len(chunk)
                if progress:
                    progress(done_bytes, official.size_bytes, "download")
        problem = _problem(part, official)
        if problem:
            raise RitornelloError(f"{url}: what it sent {problem}; try again, or give the file with --archive")
        part.replace(path)
    except (OSError, http.client.HTTPException) as error:  # of the network (URLError is one), or of the disk
        reason = getattr(error, "reason", None) or getattr(error, "strerror", None) or error
        if isinstance(error, urllib.error.HTTPError):
            error.close()  # it is the reply, too
        raise RitornelloError(
            f"{url}: cannot be downloaded to {path} ({reason}); try again, or give the file with --archive"
        ) from None
    finally:
        with suppress(OSError):
            part.unlink()


# ---- unpacking ----


def _unpacked(archive: Path, beside: Path) -> tempfile.TemporaryDirectory[str]:
    """A temporary folder with the archive's performances, CSV and licence."""
    try:
        beside.mkdir(parents=True, exist_ok=True)
        folder = tempfile.TemporaryDirectory(prefix=".maestro.", dir=beside)
    except OSError as error:
        raise RitornelloError(f"{beside}: cannot be written ({error.strerror}); choose another folder") from None
    try:
        _unpack(archive, folder.name)
    except BaseException as error:
        folder.cleanup()
        if isinstance(error, zipfile.BadZipFile):
            raise RitornelloError(f"{archive}: is not a usable ZIP archive ({error}); download it again") from None
        if isinstance(error, OSError):
            raise RitornelloError(f"{beside}: cannot be written ({error.strerror}); make room") from None
        raise
    return folder


def _unpack(archive: Path, folder: str) -> None:
    with zipfile.ZipFile(archive) as packed:
        for member in packed.infolist():
            name = PurePosixPath(member.filename)
            if name.is_absolute() or ".." in name.parts or "\\" in member.filename or ":" in member.filename:
                raise RitornelloError(f"{archive}: holds {member.filename!r}, outside its folder; do not trust it")
            if name.suffix.lower() in WANTED_SUFFIXES or name.name.upper().startswith("LICENSE"):
                packed.extract(member, folder)


def _find_csv(folder: Path, archive: Path) -> Path:
    tables = sorted(folder.rglob(CSV_NAME))
    if not tables:
        raise RitornelloError(f"{archive}: holds no {CSV_NAME}; give {OFFICIAL.name}")
    return tables[0]
