"""MAESTRO: a download is verified and goes on where it stopped, a local archive is as good, nothing half-made stays."""

from __future__ import annotations

import functools
import hashlib
import http.server
import threading
import zipfile
from pathlib import Path

import pytest
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
    """Serves ``data``; says no more than ``cut_bytes`` at once; knows ranges if ``ranges``."""

    def __init__(self, *rest, data: bytes, ranges: bool, cut_bytes: int, asked: list, status: int = 200) -> None:
        self.data, self.ranges, self.cut_bytes, self.asked, self.status = data, ranges, cut_bytes, asked, status
        super().__init__(*rest)

    def do_GET(self) -> None:
        asked = self.headers.get("Range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        status = 206 if start else self.status
        self.send_response(status)
        if status == 206:
            self.send_header("Content-Range", f"bytes {start}-{len(self.data) - 1}/{len(self.data)}")
        self.send_header("Content-Length", str(len(self.data) - start))
        self.end_headers()
        self.wfile.write(self.data[start : start + self.cut_bytes])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def serve():
    """Starts a server of some data; gives its URL and the list that its requests' Range headers go to."""
    running = []

    def start(data: bytes, *, ranges: bool = True, cut_bytes: int = 10**9, status: int = 200):
        asked: list[str | None] = []
        handler = functools.partial(Server, data=data, ranges=ranges, cut_bytes=cut_bytes, asked=asked, status=status)
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
    maestro.fetch(tmp_path / "m", official=official, url=url, workers=1, progress=lambda *news: told.append(news))
    assert (tmp_path / official.name).read_bytes() == path.read_bytes()
    assert (official.size_bytes, official.size_bytes, "download") in told
    maestro.fetch(tmp_path / "m", official=official, url=url, workers=1, overwrite=True)
    assert asked == [None]


def test_a_cut_download_goes_on_where_it_stopped(archive, tmp_path, serve):
    path, official = archive
    third = official.size_bytes // 3 + 1
    url, asked = serve(path.read_bytes(), cut_bytes=third)
    maestro.download(url, tmp_path / "m.zip", official, pause_s=0)
    assert (tmp_path / "m.zip").read_bytes() == path.read_bytes()
    assert asked == [None, f"bytes={third}-", f"bytes={2 * third}-"]
    assert not (tmp_path / "m.zip.part").exists()


def test_a_later_call_goes_on_with_an_unfinished_download(archive, tmp_path, serve):
    path, official = archive
    (tmp_path / "m.zip.part").write_bytes(path.read_bytes()[:1000])
    url, asked = serve(path.read_bytes())
    maestro.download(url, tmp_path / "m.zip", official)
    assert (tmp_path / "m.zip").read_bytes() == path.read_bytes()
    assert asked == ["bytes=1000-"]


def test_a_server_without_ranges_is_asked_for_everything_again(archive, tmp_path, serve):
    path, official = archive
    (tmp_path / "m.zip.part").write_bytes(b"x" * 1000)
    url, _ = serve(path.read_bytes(), ranges=False)
    maestro.download(url, tmp_path / "m.zip", official)
    assert (tmp_path / "m.zip").read_bytes() == path.read_bytes()


def test_a_server_that_sends_another_range_than_asked_for_starts_the_file_again(archive, tmp_path, serve):
    path, official = archive
    (tmp_path / "m.zip.part").write_bytes(path.read_bytes()[:1000])
    url, _ = serve(path.read_bytes(), ranges=False, status=206)
    maestro.download(url, tmp_path / "m.zip", official)
    assert (tmp_path / "m.zip").read_bytes() == path.read_bytes()


def test_a_download_with_the_wrong_checksum_is_deleted(archive, tmp_path, serve):
    path, official = archive
    url, _ = serve(path.read_bytes()[:-1] + b"?")
    with pytest.raises(RitornelloError, match=r"checksum.*deleted"):
        maestro.fetch(tmp_path / "maestro", official=official, url=url, workers=1)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["given.zip", "songs"]


def test_a_server_that_sends_too_much_is_not_believed(archive, tmp_path, serve):
    path, official = archive
    url, asked = serve(path.read_bytes() + b"more")
    with pytest.raises(RitornelloError, match=r"bytes.*deleted"):
        maestro.download(url, tmp_path / "m.zip", official, pause_s=0)
    assert len(asked) == 1
    assert not list(tmp_path.glob("m.zip*"))


@pytest.mark.parametrize(("status", "requests"), [(404, 1), (503, 3)])
def test_a_refused_download_gets_one_line_and_only_passing_trouble_is_tried_again(
    archive, tmp_path, serve, status, requests
):
    url, asked = serve(b"no", status=status)
    with pytest.raises(RitornelloError, match=r"cannot be downloaded.*--archive") as caught:
        maestro.download(url, tmp_path / "m.zip", archive[1], tries=3, pause_s=0)
    assert "\n" not in str(caught.value)
    assert len(asked) == requests


def test_no_network_gets_one_line(archive, tmp_path):
    with pytest.raises(RitornelloError, match=r"cannot be downloaded.*--archive"):
        maestro.download("http://127.0.0.1:9/x.zip", tmp_path / "m.zip", archive[1], tries=2, pause_s=0)


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
        maestro.fetch(tmp_path / "maestro", url="http://127.0.0.1:9/x.zip")
