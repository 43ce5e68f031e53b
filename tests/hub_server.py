"""A hub on this machine that speaks as much of the protocol as models and corpora need, and goes wrong when told."""

from __future__ import annotations

import base64
import hashlib
import json
import re
from collections.abc import Container, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from socket import SHUT_RDWR
from threading import Thread
from typing import Any

API = re.compile(r"/api/(models|datasets)/([^/]+/[^/]+)/(revision|tree|preupload|commit)/([^/?]+)")
LARGE = re.compile(r"/(?:datasets/)?[^/]+/[^/]+\.git/info/lfs/objects/batch")
STORED = re.compile(r"/stored/([0-9a-f]{64})/(\w+)")
LARGE_KINDS = (".safetensors", ".onnx")  # of any size: so the hub's own .gitattributes of a new repository say
FILE = re.compile(r"/(datasets/)?([^/]+/[^/]+)/resolve/([^/]+)/([^?]+)")


class Hub:
    """Repositories by kind and name, each with the files of its one commit.

    Attributes:
        files: of each repository, by path.
        large: what is stored of large files, by SHA-256; a commit only names it.
        part_bytes: a large file beyond this is sent in parts of so many bytes.
        sent: transfers of large files, or of parts of them, in order: SHA-256, "whole" or the part's number.
        cut_sends: the numbers of those that break off in the middle.
        cut: files whose content breaks off in the middle, and how often it still will.
        readers: tokens that may read at all; None for everybody.
        writers: tokens that may write.
    """

    def __init__(self) -> None:
        self.files: dict[tuple[str, str], dict[str, bytes]] = {}
        self.large: dict[str, bytes] = {}
        self.part_bytes = 10**9
        self.parts: dict[tuple[str, str], bytes] = {}
        self.sent: list[tuple[str, str]] = []
        self.cut_sends: Container[int] = ()
        self.cut: dict[str, int] = {}
        self.readers: set[str] | None = None
        self.writers = {"writer"}
        self._server: Any = None
        self.port = 0

    def start(self) -> None:
        """Listens, on the port it had before if it had one."""

        class Handler(_Handler):
            hub = self

        self._server = ThreadingHTTPServer(("127.0.0.1", self.port), Handler)
        self._server.daemon_threads = True
        self.port = self._server.server_port
        Thread(target=self._server.serve_forever, args=(0.05,), daemon=True).start()

    def stop(self) -> None:
        """Listens no more."""
        self._server.shutdown()
        self._server.server_close()

    @contextmanager
    def away(self) -> Iterator[None]:
        """Nobody is there for a while."""
        self.stop()
        try:
            yield
        finally:
            self.start()

    def commit(self, kind: str, name: str) -> str:
        """A hash of all that a repository holds."""
        files = sorted(self.files[kind, name].items())
        whole = b"".join(path.encode() + hashlib.sha1(content).digest() for path, content in files)
        return hashlib.sha1(whole).hexdigest()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub

    def log_message(self, *_: Any) -> None:
        pass

    def _answer(
        self, code: int, content: bytes | dict[str, Any] | list[Any], whole: bool = True, **headers: str
    ) -> None:
        data = content if isinstance(content, bytes) else json.dumps(content).encode()
        self.send_response(code)
        for name, value in {"Content-Length": str(len(data)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(data if whole else data[: len(data) // 2])

    def _token(self) -> str:
        return self.headers.get("Authorization", "").removeprefix("Bearer ")

    def _found(self, kind: str, name: str, revision: str) -> dict[str, bytes] | None:
        """The files, or None where an answer was given instead."""
        if (kind, name) not in self.hub.files:
            self._answer(404, {}, X_Error_Code="RepoNotFound")
        elif self.hub.readers is not None and self._token() not in self.hub.readers:
            self._answer(403, {}, X_Error_Code="GatedRepo")
        elif revision not in ("main", self.hub.commit(kind, name)):
            self._answer(404, {}, X_Error_Code="RevisionNotFound")
        else:
            return self.hub.files[kind, name]
        return None

    def do_GET(self) -> None:
        if asked := API.match(self.path):
            kind, name, what, revision = asked.groups()
            if (files := self._found(kind, name, revision)) is None:
                return
            if what == "revision":
                siblings = [{"rfilename": path} for path in files]
                self._answer(200, {"id": name, "sha": self.hub.commit(kind, name), "siblings": siblings})
                return
            sizes = {path: (len(content), hashlib.sha1(content).hexdigest()) for path, content in files.items()}
            self._answer(200, [{"type": "file", "path": p, "size": s, "oid": oid} for p, (s, oid) in sizes.items()])
        elif asked := FILE.match(self.path):
            prefix, name, revision, path = asked.groups()
            if (files := self._found("datasets" if prefix else "models", name, revision)) is not None:
                self._file(files, path, self.hub.commit("datasets" if prefix else "models", name))
        else:
            self._answer(404, {})

    do_HEAD = do_GET  # noqa: N815

    def _file(self, files: dict[str, bytes], path: str, commit: str) -> None:
        content = files[path]
        named = {"ETag": f'"{hashlib.sha1(content).hexdigest()}"', "X_Repo_Commit": commit}
        whole = not (self.command == "GET" and self.hub.cut.get(path, 0))
        self._answer(200, content, whole, **named)
        if not whole:
            self.hub.cut[path] -= 1

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if stored := STORED.fullmatch(self.path):  # an address that only who may write was given
            self._answer(*self._finished(stored[1], stored[2], json.loads(body)))
        elif self._token() not in self.hub.writers:
            self._answer(403, {"error": "no right to write"})
        elif self.path == "/api/repos/create":
            asked = json.loads(body)
            name = f"{asked['organization']}/{asked['name']}" if "organization" in asked else asked["name"]
            self.hub.files.setdefault(("models", name), {})
            self._answer(200, {"url": f"http://127.0.0.1:{self.hub.port}/{name}", "id": name})
        elif self.path == "/api/validate-yaml":
            self._answer(200, {"errors": [], "warnings": []})
        elif LARGE.fullmatch(self.path):
            objects = [self._wanted(o["oid"], o["size"]) for o in json.loads(body)["objects"]]
            self._answer(200, {"transfer": "basic", "objects": objects})
        elif asked_for := API.match(self.path):
            kind, name, what, _ = asked_for.groups()
            if what == "preupload":
                modes = {
                    f["path"]: "lfs" if f["path"].endswith(LARGE_KINDS) else "regular"
                    for f in json.loads(body)["files"]
                }
                files = [{"path": p, "uploadMode": mode, "shouldIgnore": False} for p, mode in modes.items()]
                self._answer(200, {"files": files})
                return
            lines = [json.loads(line) for line in body.splitlines()]
            if any(line["key"] == "lfsFile" and line["value"]["oid"] not in self.hub.large for line in lines):
                self._answer(400, {"error": "a file that never arrived"})
                return
            for value in (line["value"] for line in lines if "path" in line["value"]):
                content = base64.b64decode(value["content"]) if "content" in value else self.hub.large[value["oid"]]
                self.hub.files[kind, name][value["path"]] = content
            address = f"http://127.0.0.1:{self.hub.port}/{name}/commit/{self.hub.commit(kind, name)}"
            self._answer(200, {"success": True, "commitOid": self.hub.commit(kind, name), "commitUrl": address})
        else:
            self._answer(404, {})

    def _wanted(self, oid: str, size: int) -> dict[str, Any]:
        """How an object is to be sent, if it is not here: whole, or in parts."""
        if oid in self.hub.large:
            return {"oid": oid, "size": size}
        place = f"http://127.0.0.1:{self.hub.port}/stored/{oid}"
        upload: dict[str, Any] = {"href": f"{place}/whole"}
        if size > self.hub.part_bytes:
            numbers = range(1, -(-size // self.hub.part_bytes) + 1)
            header = {"chunk_size": str(self.hub.part_bytes), **{str(n): f"{place}/{n}" for n in numbers}}
            upload = {"href": f"{place}/complete", "header": header}
        return {"oid": oid, "size": size, "actions": {"upload": upload, "verify": {"href": f"{place}/verify"}}}

    def do_PUT(self) -> None:
        oid, part = STORED.fullmatch(self.path).groups()  # type: ignore[union-attr]
        size, number = int(self.headers["Content-Length"]), len(self.hub.sent)
        self.hub.sent.append((oid, part))
        if number in self.hub.cut_sends:
            self.rfile.read(size // 2)
            self.close_connection = True
            self.connection.shutdown(SHUT_RDWR)
            return
        content = self.rfile.read(size)
        if part != "whole":
            self.hub.parts[oid, part] = content
        elif hashlib.sha256(content).hexdigest() == oid:
            self.hub.large[oid] = content
        self._answer(200, {}, ETag=hashlib.sha1(content).hexdigest())

    def _finished(self, oid: str, what: str, asked: dict[str, Any]) -> tuple[int, dict[str, Any]]:
        """Joins an object's parts; tells whether it is whole."""
        if what == "complete":
            parts = [(self.hub.parts[oid, str(part["partNumber"])], part["etag"]) for part in asked["parts"]]
            whole = b"".join(content for content, _ in parts)
            hashes = [hashlib.sha1(content).hexdigest() == etag for content, etag in parts]
            if all(hashes) and hashlib.sha256(whole).hexdigest() == oid:
                self.hub.large[oid] = whole
        is_whole = oid in self.hub.large and asked.get("size", len(self.hub.large[oid])) == len(self.hub.large[oid])
        return (200, {}) if is_whole else (400, {"error": "not what was announced"})
