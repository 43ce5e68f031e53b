"""The studio for tests: an engine that plays at no cost, a server that can be stopped and begun again, folders."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import numpy as np
import uvicorn

from ritornello import codec
from ritornello.performing import Performer
from ritornello.studio import server

NATS = np.full(codec.N_EVENTS, -30.0, np.float32)
"""what `Tinkling` weighs: quiet single notes in the middle of the piano, a few in a second"""
NATS[codec.NOTE_ON + 52 : codec.NOTE_ON + 80] = 0
NATS[codec.NOTE_OFF : codec.SHIFT] = 3
NATS[codec.SHIFT + 9 : codec.SHIFT + 40] = 1
NATS[codec.VELOCITY + 10 : codec.VELOCITY + 20] = -1


class Tinkling:
    """An engine that draws from the same likelihoods for ever, and counts what it has read."""

    name, trained_on, legal = "tinkling", {"name": "nothing", "licence": "CC0"}, True
    motifs = None
    threads, weight_bytes, memory_tokens, nbytes, position = 1, 0, 0, 1_000, 0

    def __init__(self, ends: float = -30.0, labels: tuple[str, ...] = ()) -> None:
        self.logits = NATS.copy()
        self.logits[codec.END] = ends
        self.read_tokens = 0
        self.labels, self.told = labels, np.zeros(len(labels))

    def begin(self, position: int = 0) -> Tinkling:
        return self

    def fork(self) -> Tinkling:
        return self

    def tell(self, labels: np.ndarray) -> None:
        self.told = labels

    def read(self, tokens: np.ndarray) -> np.ndarray:
        self.read_tokens += len(tokens)
        return self.logits

    def score(self, tokens: np.ndarray) -> np.ndarray:
        return np.tile(self.logits, (len(tokens), 1))


class Served:
    """A server that runs from ``start`` to ``stop``, always at the same port of the loopback interface."""

    def __init__(self, performer: Performer) -> None:
        self.performer = performer
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.port = self.socket.getsockname()[1]
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        if self.socket.fileno() < 0:
            self.socket = socket.create_server(("127.0.0.1", self.port))
        app = server.application(self.performer)
        limit = server.MAX_MESSAGE_BYTES
        self._server = uvicorn.Server(uvicorn.Config(app, log_level="critical", access_log=False, ws_max_size=limit))
        self._thread = threading.Thread(target=self._server.run, kwargs={"sockets": [self.socket]}, daemon=True)
        self._thread.start()
        while not self._server.started:
            time.sleep(0.01)

    def stop(self) -> None:
        """Cuts all connections."""
        self._server.should_exit = self._server.force_exit = True
        self._thread.join(10)
        self.socket.close()


class Program:
    """``ritornello studio`` with the bundled model, a process of its own, always at the same port."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        self.start()

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}/"

    def start(self) -> None:
        command = [sys.executable, "-m", "ritornello", "studio", "--no-open", "--port", str(self.port)]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        assert self.process.stderr is not None
        assert self.address in self.process.stderr.readline()

    def kill(self) -> None:
        """At once, as the system does when there is no memory left."""
        self.process.kill()
        self.process.wait()
        self.process.stderr.close()

    def resident_mb(self) -> float:
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        return int(status.split("VmRSS:")[1].split()[0]) / 1e3


class Quiet(SimpleHTTPRequestHandler):
    """A static server without a log."""

    def log_message(self, *args: object) -> None:
        pass


@contextmanager
def site(folder: Path) -> Iterator[str]:
    """The address at which a folder's files are given out."""
    with ThreadingHTTPServer(("127.0.0.1", 0), partial(Quiet, directory=str(folder))) as giving:
        threading.Thread(target=giving.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{giving.server_address[1]}/"
        giving.shutdown()
