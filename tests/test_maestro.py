"""MAESTRO: a download is verified, a local archive is as good, nothing half-made stays."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
from conftest import one_line
from songs import write_songs_with_csv

from ritornello.corpus import maestro
from ritornello.errors import RitornelloError


@pytest.fixture
def archive(tmp_path):
    """A made-up archive of MAESTRO's shape and the description that fits it."""
    songs, path = write_songs_with_csv(tmp_path / "songs"), tmp_path / "given.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.write(songs / "songs.csv", "maestro-v3.0.0/maestro-v3.0.0.csv")
        packed.writestr("maestro-v3.0.0/LICENSE", "CC BY-NC-SA 4.0")
        packed.writestr("maestro-v3.0.0/README", bytes(300_000))
        for name in ("2018/a.midi", "2018/b.midi", "2019/c.midi", "2019/d.midi", "e.MID"):
            packed.write(songs / name, f"maestro-v3.0.0/{name}")
    return path, describe(path)


def describe(path: Path, **changes: str) -> maestro.Archive:
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    return maestro.Archive(size_bytes=path.stat().st_size, **{"sha256": digest, **changes})


class Server(http.server.BaseHTTPRequestHandler):
    """Announces all of ``data`` and sends the first ``sent_bytes``."""

    def __init__(self, *rest, data: bytes, sent_bytes: int, asked: list, status: int = 200) -> None:
        self.data, self.sent_bytes, self.asked, self.status = data, sent_bytes, asked, status
        super().__init__(*rest)

    def do_GET(self) -> None:
        self.asked.append(self.path)
        self.send_response(self.status)
        self.send_header("Content-Length", str(len(self.data)))
        self.end_headers()
        self.wfile.write(self.data[: self.sent_bytes])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve():
    """Starts a server of some data; gives its URL and the list that its requests go to."""
    running = []

    def start(data: bytes, *, sent_bytes: int = 10**9, status: int = 200):
        asked: list[str] = []
        handler = functools.partial(Server, data=data, sent_bytes=sent_bytes, asked=asked, status=status)
        server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
        thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        running.append((server, thread))
        return f"http://127.0.0.1:{server.server_port}/maestro.zip", asked

    yield start
    for server, thread in running:
        server.shutdown()
        server.server_close()
        thread.join()


def test_the_official_archive_is_pinned():
    assert maestro.OFFICIAL.size_bytes == 58_416_533
    assert maestro.OFFICIAL.sha256 == "70470ee253295c8d2c71e6d9d4a815189e35c89624b76d22fce5a019d5dde12c"


def test_a_local_archive_becomes_a_corpus_with_official_splits(archive, tmp_path):
    path, official = archive
    corpus = maestro.fetch(tmp_path / "maestro", archive=path, official=official, workers=1)
    assert corpus.splits() == {"train": 3, "validation": 1, "test": 1}
    assert (corpus.name, corpus.licence) == ("MAESTRO v3.0.0", "CC BY-NC-SA 4.0")
    assert corpus.manifest["licence_files"] == ["LICENSE"]
    assert sorted(found.name for found in tmp_path.iterdir()) == ["given.zip", "maestro", "songs"]


def test_a_download_is_verified_kept_and_not_repeated(archive, tmp_path, serve):
    path, official = archive
    url, asked = serve(path.read_bytes())
    told = []
    maestro.fetch(
        tmp_path / "m", official=replace(official, url=url), workers=1, progress=lambda *news: told.append(news)
    )
    assert (tmp_path / official.name).read_bytes() == path.read_bytes()
    assert (official.size_bytes, official.size_bytes, "download") in told
    maestro.fetch(tmp_path / "m", official=replace(official, url=url), workers=1, overwrite=True)
    assert asked == ["/maestro.zip"]


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda data: data[:-1] + b"?", "checksum"),
        (lambda data: data + b"more", "bytes"),
        (lambda data: data[:-1], "bytes"),
        (lambda data: b"", "0 bytes"),
    ],
)
def test_a_download_that_is_not_the_archive_is_refused_and_deleted(archive, tmp_path, serve, damage, reason):
    path, official = archive
    url, _ = serve(damage(path.read_bytes()))
    with pytest.raises(RitornelloError, match=rf"{reason}.*--archive"):
        maestro.fetch(tmp_path / "maestro", official=replace(official, url=url), workers=1)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["given.zip", "songs"]


def test_a_connection_that_is_cut_a_refusal_and_no_network_get_one_line(archive, tmp_path, serve):
    path, official = archive
    cut, refusing = serve(path.read_bytes(), sent_bytes=1000)[0], serve(b"no", status=503)[0]
    for url in (cut, refusing, "http://127.0.0.1:9/x.zip"):
        with one_line(f"{url}: ", "--archive"):
            maestro.download(tmp_path / "m.zip", replace(official, url=url))
    assert not list(tmp_path.glob("m.zip*"))


def test_a_download_that_cannot_be_written_gets_one_line(archive, tmp_path, serve):
    path, official = archive
    url, _ = serve(path.read_bytes())
    with pytest.raises(RitornelloError, match=r"cannot be downloaded to .*given\.zip.m\.zip \("):
        maestro.download(path / "m.zip", replace(official, url=url))


def test_a_local_archive_that_is_another_file_is_refused_and_kept(archive, tmp_path):
    path, official = archive
    for data, reason in ((b"short", "5 bytes"), (path.read_bytes()[:-1] + b"?", "checksum")):
        (tmp_path / "other.zip").write_bytes(data)
        with pytest.raises(RitornelloError, match=reason):
            maestro.fetch(tmp_path / "maestro", archive=tmp_path / "other.zip", official=official)
        assert (tmp_path / "other.zip").read_bytes() == data
    with pytest.raises(RitornelloError, match="cannot be read"):
        maestro.fetch(tmp_path / "maestro", archive=tmp_path / "none.zip", official=official)


@pytest.mark.parametrize("name", ["../evil.mid", "/evil.mid", "a/../../evil.mid", "..\\evil.mid", "C:evil.mid"])
def test_an_archive_that_reaches_outside_its_folder_is_refused(tmp_path, name):
    path = tmp_path / "in" / "evil.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr(name, "boo")
    with pytest.raises(RitornelloError, match="outside its folder"):
        maestro.fetch(tmp_path / "in" / "maestro", archive=path, official=describe(path))
    assert [found.name for found in tmp_path.rglob("*")] == ["in", "evil.zip"]


def test_an_archive_without_the_csv_and_one_that_is_no_zip_are_refused(tmp_path):
    path = tmp_path / "odd.zip"
    with zipfile.ZipFile(path, "w") as packed:
        packed.writestr("readme.txt", "hello")
    with pytest.raises(RitornelloError, match=r"holds no maestro-v3\.0\.0\.csv"):
        maestro.fetch(tmp_path / "maestro", archive=path, official=describe(path))
    path.write_bytes(b"PK not really")
    with pytest.raises(RitornelloError, match="not a usable ZIP"):
        maestro.fetch(tmp_path / "maestro", archive=path, official=describe(path))
    assert [found.name for found in tmp_path.iterdir()] == ["odd.zip"]


def test_an_existing_destination_is_noticed_before_the_download(tmp_path):
    (tmp_path / "maestro").mkdir()
    (tmp_path / "maestro" / "x").write_text("x")
    with pytest.raises(RitornelloError, match="exists already"):
        maestro.fetch(tmp_path / "maestro", official=replace(maestro.OFFICIAL, url="http://127.0.0.1:9/x.zip"))
