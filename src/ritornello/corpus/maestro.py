"""MAESTRO v3.0.0 from its official archive: download, verify, prepare with the official splits.

Hawthorne et al., "Enabling Factorized Piano Music Modeling and Generation with the MAESTRO Dataset", ICLR 2019;
licence CC BY-NC-SA 4.0.
"""

from __future__ import annotations

import hashlib
import http.client
import ssl
import tempfile
import time
import urllib.error
import urllib.request
import zipfile
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from ritornello.corpus.destination import check_destination
from ritornello.corpus.prepare import Progress, prepare
from ritornello.corpus.shards import Corpus
from ritornello.errors import RitornelloError

CSV_NAME = "maestro-v3.0.0.csv"
WANTED_SUFFIXES = (".mid", ".midi", ".csv")
LICENCE = "CC BY-NC-SA 4.0"
CHUNK_BYTES = 2**18


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
    url: str | None = None,
    workers: int | None = None,
    overwrite: bool = False,
    progress: Progress | None = None,
) -> Corpus:
    """Makes the corpus ``destination`` from MAESTRO's archive.

    Without ``archive`` it is downloaded beside ``destination`` and kept there, so that a second call need not load it
    again; a download that was cut goes on where it stopped, in this call or the next.

    Args:
        destination: the corpus folder to make.
        archive: the archive's file, if it is here already.
        official: what the archive must be.
        url: loads the same archive from elsewhere.
        workers: processes; None is one for each processor.
        overwrite: whether a corpus at ``destination`` may be replaced.
        progress: called with (bytes so far, bytes, "download"), later with (files so far, files, file name).

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
            download(url or official.url, path, official, progress=progress)
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


# ---- download ----


def download(
    url: str,
    path: Path,
    official: Archive,
    *,
    tries: int = 5,
    pause_s: float = 2.0,
    timeout_s: float = 30.0,
    progress: Progress | None = None,
) -> None:
    """Loads ``url`` into ``path``, through ``path``.part, where a later call goes on if this one is cut short.

    Raises:
        RitornelloError: if ``tries`` connections bring nothing more, or what came is not the ``official`` archive.
    """
    part = path.with_name(path.name + ".part")
    most_bytes = idle_tries = 0
    reason = ""
    while idle_tries < tries and _size_bytes(part) != official.size_bytes:
        if idle_tries:
            time.sleep(pause_s)
        try:
            _load_more(url, part, official, timeout_s, progress)
            reason = "the connection was cut"
        except _LOAD_ERRORS as error:
            reason = str(getattr(error, "reason", error)) or type(error).__name__
            if isinstance(error, urllib.error.HTTPError) and error.code < 500:
                break  # the server will not change its mind
        except OSError as error:
            raise RitornelloError(f"{part}: cannot be written ({error.strerror}); make room, then try again") from None
        idle_tries = 0 if _size_bytes(part) > most_bytes else idle_tries + 1
        most_bytes = max(most_bytes, _size_bytes(part))
        if most_bytes > official.size_bytes:
            break
    if _size_bytes(part) < official.size_bytes:
        raise RitornelloError(
            f"{url}: cannot be downloaded ({reason}); try again later, or give the file with --archive"
        )
    problem = _problem(part, official)
    if problem:
        part.unlink()
        raise RitornelloError(f"{url}: what it sent {problem}; it was deleted: try again, or use --archive")
    part.replace(path)


# URLError covers the network; a full disk is a plain OSError and no reason to try again.
_LOAD_ERRORS = (urllib.error.URLError, http.client.HTTPException, ConnectionError, TimeoutError, ssl.SSLError)


def _size_bytes(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


def _load_more(url: str, part: Path, official: Archive, timeout_s: float, progress: Progress | None) -> None:
    """Goes on with ``part`` over one connection, from its beginning if the server knows no ranges."""
    have_bytes = _size_bytes(part)
    request = urllib.request.Request(url, headers={"Range": f"bytes={have_bytes}-"} if have_bytes else {})
    with urllib.request.urlopen(request, timeout=timeout_s) as reply:
        resumed = reply.status == http.HTTPStatus.PARTIAL_CONTENT and str(
            reply.headers.get("Content-Range", "")
        ).startswith(f"bytes {have_bytes}-")
        part.parent.mkdir(parents=True, exist_ok=True)
        with part.open("ab" if resumed else "wb") as file:
            _copy(reply, file, have_bytes if resumed else 0, official.size_bytes, progress)


def _copy(reply: BinaryIO, file: BinaryIO, done_bytes: int, size_bytes: int, progress: Progress | None) -> None:
    while done_bytes <= size_bytes and (chunk := reply.read(CHUNK_BYTES)):
        file.write(chunk)
        done_bytes += len(chunk)
        if progress:
            progress(done_bytes, size_bytes, "download")


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
    found = sorted(folder.rglob(CSV_NAME))
    if not found:
        raise RitornelloError(f"{archive}: holds no {CSV_NAME}; give {OFFICIAL.name}")
    return found[0]
