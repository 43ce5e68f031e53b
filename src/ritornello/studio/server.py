"""The studio's server: the page's files, and one WebSocket for each page that plays.

Whoever reaches the port may load the page. Music is made for pages that this server has given alone: the socket wants
this server's own origin and, on any other address than the loopback interface, a token. Everything has a limit: bytes
of a message, pages, voices of a page, notes and seconds of a prompt, and the time without a word.

Messages are JSON objects; ``page/stream.js`` is the other side. A page sends ``start``, ``advance``, ``sampling``,
``told``, ``fork``, ``close``, ``score``, ``duet``, ``agree``, ``midi`` and ``finish``, each with the ``id`` of a
stream; it gets ``hello`` once, then ``notes``, ``end``, ``score``, ``turn``, ``key`` and ``error``.
"""

from __future__ import annotations

import asyncio
import json
import mimetypes
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

import numpy as np
import uvicorn
from numpy.typing import NDArray
from starlette.applications import Starlette
from starlette.datastructures import MutableHeaders
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, WebSocketRoute
from starlette.staticfiles import StaticFiles
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from starlette.websockets import WebSocket, WebSocketDisconnect

from ritornello.duet import HANDBACKS, TAKEOVERS
from ritornello.errors import RitornelloError
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.studio.voices import LATER, Conductor, Partner, Task, Turns, Voice, prompt_of, score
from ritornello.take import Take

Stream = TypeVar("Stream", Voice, Partner)
Tokens = NDArray[np.integer]
NOTHING = np.zeros(0, np.uint16)
PAGE = Path(__file__).parent / "page"
LOOPBACK = ("127.0.0.1", "localhost", "[::1]")
MAX_MESSAGE_BYTES = 4 * 2**20
MAX_NOTES, MAX_SECONDS, MAX_PEDALS = 50_000, 4 * 3600.0, 50_000
MAX_SESSIONS, MAX_VOICES, MAX_MOMENTS = 4, 8, 2
LONG_TOKENS = 256
"""from which length on the moment at a prompt's end is kept, for another voice to go on from"""
MAX_WAITING = 1_000
"""messages that a page may leave unread before its music stops to be made"""
IDLE_S = 30 * 60.0
HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self' 'wasm-unsafe-eval'; worker-src 'self'; style-src 'self'; "
        "img-src 'self' blob: data:; connect-src 'self'; manifest-src 'self'; base-uri 'none'; form-action 'none'; "
        "frame-ancestors 'none'"
    ),
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Embedder-Policy": "require-corp",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Cache-Control": "no-cache",
}


def application(
    performer: Performer, *, host: str = LOOPBACK[0], token: str | None = None, idle_s: float = IDLE_S
) -> ASGIApp:
    """The studio as an ASGI application.

    Args:
        performer: plays for all pages.
        host: that it is bound to. Requests for other names than the loopback interface's are refused there, so that no
            page of another site can reach it under a name of its own.
        token: that a page must know; None asks for none.
        idle_s: after how long without a message a page is let go.
    """
    for ending, kind in ((".js", "text/javascript"), (".wasm", "application/wasm"), (".mp3", "audio/mpeg")):
        mimetypes.add_type(kind, ending)  # whatever the system's own table says
    studio = _Studio(performer, token, idle_s)

    @asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        studio.conductor.start()
        yield
        studio.conductor.stop()

    routes = [WebSocketRoute("/session", studio.serve), Mount("/", StaticFiles(directory=PAGE, html=True))]
    return _Guard(Starlette(routes=routes, lifespan=lifespan), LOOPBACK if host in (*LOOPBACK, "::1") else None)


def serve(performer: Performer, *, host: str, port: int, token: str | None, ready: Callable[[str], None]) -> None:
    """Serves until it is interrupted; ``ready`` gets the page's address once it can be opened.

    Raises:
        RitornelloError: if the address cannot be used.
    """
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        listening = socket.create_server((host.strip("[]"), port), family=family)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise RitornelloError(
            f"{host}:{port}: cannot be used ({reason}); give another --port, or another --host"
        ) from None
    shown = f"[{host.strip('[]')}]" if ":" in host else host
    address = f"http://{shown}:{listening.getsockname()[1]}/" + (f"#token={token}" if token else "")
    config = uvicorn.Config(
        application(performer, host=host, token=token),
        log_level="error",
        access_log=False,
        ws_max_size=MAX_MESSAGE_BYTES,
        ws_max_queue=8,
        limit_concurrency=200,
        server_header=False,
    )
    ready(address)
    with suppress(KeyboardInterrupt):
        uvicorn.Server(config).run(sockets=[listening])


class _Guard:
    """Refuses requests for names that are not this server's, and puts `HEADERS` on every answer."""

    def __init__(self, inner: ASGIApp, names: tuple[str, ...] | None) -> None:
        self._inner, self._names = inner, names

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                MutableHeaders(scope=message).update(HEADERS)
            await send(message)

        host = dict(scope.get("headers", [])).get(b"host", b"").decode("latin-1")
        if self._names is None or scope["type"] == "lifespan" or _name(host) in self._names:
            await self._inner(scope, receive, send_with_headers)
        elif scope["type"] == "http":
            await PlainTextResponse("this name is not the studio's", 403)(scope, receive, send_with_headers)
        else:
            await send({"type": "websocket.close", "code": 1008})


class Moment(NamedTuple):
    """What a page's voice had heard, what it was told then, and a take that stands there."""

    tokens: Tokens
    told: Mapping[str, float]
    take: Take


class _Studio:
    """All pages that play."""

    def __init__(self, performer: Performer, token: str | None, idle_s: float) -> None:
        self.performer, self._token, self._idle_s = performer, token, idle_s
        self._sessions = 0
        self.conductor = Conductor()

    async def serve(self, ws: WebSocket) -> None:
        """One page, from its first word to its last."""
        origin = ws.headers.get("origin", "")
        known = secrets.compare_digest(ws.query_params.get("token", "").encode(), (self._token or "").encode())
        if origin.split("://")[-1] != ws.headers.get("host") or (self._token and not known):
            await ws.close(1008)
            return
        await ws.accept()
        if self._sessions >= MAX_SESSIONS:
            await ws.send_json({"op": "error", "message": f"{MAX_SESSIONS} pages play already; close one of them"})
            await ws.close(1013)
            return
        self._sessions += 1
        session = _Session(self, asyncio.get_running_loop())
        sending = asyncio.create_task(session.send_all(ws.send_text))
        try:
            await self._listen(ws, session)
        except WebSocketDisconnect:
            pass
        finally:
            self._sessions -= 1
            session.close()
            sending.cancel()

    async def _listen(self, ws: WebSocket, session: _Session) -> None:
        while True:
            try:
                message = await asyncio.wait_for(ws.receive(), self._idle_s)
            except asyncio.TimeoutError:
                await ws.close(1001, "nothing was asked for a long time")
                return
            if message["type"] == "websocket.disconnect":
                return
            text = message.get("text")
            if text is None or len(text) > MAX_MESSAGE_BYTES:
                await ws.close(1009 if text else 1003)
                return
            await asyncio.to_thread(session.take, text)  # reading a long prompt's notes must not hold up other pages


class _Session:
    """One page: its voices by their ids, and what it is to be told."""

    def __init__(self, studio: _Studio, loop: asyncio.AbstractEventLoop) -> None:
        self._performer, self._conductor, self._loop = studio.performer, studio.conductor, loop
        self._moments: list[Moment] = []
        self._voices: dict[int, Voice | Partner] = {}
        ops = ("start", "advance", "sampling", "told", "fork", "close", "score", "duet", "agree", "midi", "finish")
        self._ops = {op: getattr(self, f"_{op}") for op in ops}
        self._outbox: asyncio.Queue[dict[str, Any]] = asyncio.Queue()
        self._closed = False
        self._outbox.put_nowait({"op": "hello", "about": about(studio.performer)})

    def take(self, text: str) -> None:
        """One message of the page's: refused with one line, or done between two turns."""
        number = None
        try:
            message = json.loads(text)
            if not isinstance(message, dict) or message.get("op") not in self._ops:
                raise RitornelloError("no message of the studio's")
            number = _whole(message, "id")
            do = self._ops[message["op"]](number, message)
        except (ValueError, RecursionError) as error:  # no JSON, or notes that are none
            self._tell(number, {"op": "error", "message": f"cannot be read: {error}"})
        except RitornelloError as error:
            self._tell(number, {"op": "error", "message": str(error)})
        else:
            self._conductor.between_turns(do)

    def close(self) -> None:
        """Lets all voices go."""
        self._closed = True
        self._conductor.between_turns(self._let_go)

    async def send_all(self, send: Callable[[str], Awaitable[None]]) -> None:
        """Sends what the page is told, until the task is cancelled or the page is gone."""
        with suppress(WebSocketDisconnect, RuntimeError, OSError):
            while True:
                await send(json.dumps(await self._outbox.get()))

    def _start(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        piece, seed, sampling = _piece(message), _whole(message, "seed"), _sampling(message)
        from_s = None if message.get("from") is None else _seconds(message, "from")
        tokens, begins_s = prompt_of(piece, from_s)
        told = _told(message, self._performer.engine.labels)
        tell = partial(self._tell, number)

        def start() -> None:
            known = (m for m in self._moments if m.told == told)
            heard = next((m for m in known if np.array_equal(m.tokens, tokens[: len(m.tokens)])), None)
            take = heard.take.fork() if heard else self._performer.begin()
            rest = tokens[len(heard.tokens) :] if heard else tokens
            voice = Voice(take, rest, from_s=begins_s, seed=seed, sampling=sampling, told=told, tell=tell)
            self._add(number, voice, tell, self._keeping(voice, tokens))

        return start

    def _fork(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        source, seed, tell = _whole(message, "from"), _whole(message, "seed"), partial(self._tell, number)

        def fork() -> None:
            if voice := self._open(source, Voice):
                other = voice.fork(seed, tell)
                self._add(number, other, tell, other.turns())
            else:
                tell({"op": "error", "message": "the stream to go on from is closed"})

        return fork

    def _duet(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        tell, engine = partial(self._tell, number), self._performer.engine
        performer = Performer(engine, _sampling(message), told=_told(message, engine.labels))
        partner = Partner(performer, seed=_whole(message, "seed"), **_agreed(message), tell=tell)
        return lambda: self._add(number, partner, tell, partner.turns())

    def _agree(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        agreed = _agreed(message)

        def agree() -> None:
            if partner := self._open(number, Partner):
                partner.agree(**agreed)

        return agree

    def _midi(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        at_s, content = _number(message, "at"), message.get("message")
        if not isinstance(content, list) or not all(isinstance(byte, int) and 0 <= byte < 256 for byte in content):
            raise RitornelloError("a MIDI message is a list of bytes")
        return lambda: self._hear(number, at_s, content)

    def _finish(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        at_s = _number(message, "at")
        return lambda: self._hear(number, at_s, None)

    def _hear(self, number: int, at_s: float, content: list[int] | None) -> None:
        if partner := self._open(number, Partner):
            partner.hear(at_s, content)

    def _advance(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        until_s = _seconds(message, "until")

        def advance() -> None:
            if voice := self._open(number, Voice):
                voice.until_s = until_s

        return advance

    def _sampling(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        sampling = _sampling(message)

        def change() -> None:
            if voice := self._open(number, Voice):
                voice.sampling = sampling
            if partner := self._open(number, Partner):
                partner.performer.sampling = sampling

        return change

    def _told(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        told = _told(message, self._performer.engine.labels)

        def change() -> None:
            if voice := self._open(number, Voice):
                voice.steer(told)
            if partner := self._open(number, Partner):
                partner.performer.told = told

        return change

    def _close(self, number: int, _: dict[str, Any]) -> Callable[[], None]:
        def close() -> None:
            if number in self._voices:
                self._voices.pop(number).closed = True

        return close

    def _score(self, number: int, message: dict[str, Any]) -> Callable[[], None]:
        piece, tell = _piece(message), partial(self._tell, number)
        turns = score(self._performer.engine, piece, _seconds(message, "from"), _seconds(message, "to"), tell)
        return lambda: self._conductor.add(Task(turns, tell))

    def _add(self, number: int, stream: Voice | Partner, tell: Callable[[dict[str, Any]], None], turns: Turns) -> None:
        if self._closed:
            return
        if number in self._voices or len(self._voices) >= MAX_VOICES:
            tell({"op": "error", "message": f"a page has {MAX_VOICES} voices at most, each with a number of its own"})
            return
        self._voices[number] = stream
        self._conductor.add(Task(self._paced(stream, turns), tell))

    def _keeping(self, voice: Voice, tokens: Tokens) -> Turns:
        """The voice's turns; the moment at its prompt's end is kept."""
        told = voice.told
        for wait_s in voice.turns():
            if voice.ready and len(tokens) >= LONG_TOKENS and voice.told is told:
                self._moments = [Moment(tokens, told, voice.take.fork()), *self._moments][:MAX_MOMENTS]
                tokens = NOTHING
            yield wait_s

    def _paced(self, stream: Voice | Partner, turns: Turns) -> Turns:
        """Turns, which wait while the page does not read what it was told."""
        for wait_s in turns:
            yield wait_s
            while self._outbox.qsize() >= MAX_WAITING and not stream.closed:
                yield LATER

    def _open(self, number: int, kind: type[Stream]) -> Stream | None:
        """The stream of that number, if it is of that kind."""
        stream = self._voices.get(number)
        return stream if isinstance(stream, kind) else None

    def _let_go(self) -> None:
        for voice in self._voices.values():
            voice.closed = True
        self._voices.clear()

    def _tell(self, number: int | None, message: dict[str, Any]) -> None:
        if not self._closed:
            with suppress(RuntimeError):  # the server has stopped
                self._loop.call_soon_threadsafe(self._outbox.put_nowait, {"id": number, **message})


def about(performer: Performer) -> dict[str, Any]:
    """What the page says of its engine; sizes in bytes, the state's for each voice."""
    engine = performer.engine
    return {
        "name": Path(engine.name).name,
        "licence": engine.trained_on.get("licence", ""),
        "data": engine.trained_on.get("name", ""),
        "memoryBytes": engine.weight_bytes,
        "stateBytes": engine.begin().nbytes,
        "voices": MAX_VOICES,
        "labels": list(engine.labels),
    }


def _piece(message: dict[str, Any]) -> Piece:
    notes, pedals = message.get("notes", []), message.get("pedals", [])
    if not isinstance(notes, list) or not isinstance(pedals, list):
        raise RitornelloError("notes and pedals are lists")
    if len(notes) > MAX_NOTES or len(pedals) > MAX_PEDALS:
        raise RitornelloError(f"{len(notes):,} notes; a prompt has {MAX_NOTES:,} at most: take a part of it")
    try:
        piece = Piece.from_notes(notes, pedals=pedals)
    except (TypeError, OverflowError) as error:
        raise RitornelloError(f"notes are rows of start, end, pitch and velocity ({error})") from None
    last = max(piece.seconds, piece.pedals.max(initial=0.0))
    if last > MAX_SECONDS:
        raise RitornelloError(f"the prompt lasts {last:.0f} s; it may last {MAX_SECONDS:.0f}: take a part of it")
    return piece


def _sampling(message: dict[str, Any]) -> Sampling:
    given = message.get("sampling") or {}
    if not isinstance(given, dict):
        raise RitornelloError("sampling is an object")
    names = {"temperature": "temperature", "topP": "top_p", "minP": "min_p", "returns": "returns"}
    settings: dict[str, Any] = {names[name]: _number(given, name) for name in names if given.get(name) is not None}
    return Sampling(**settings)


def _told(message: dict[str, Any], labels: Sequence[str]) -> dict[str, float]:
    given = message.get("told") or {}
    if not isinstance(given, dict):
        raise RitornelloError("told is an object")
    for label in given:
        if label not in labels:
            raise RitornelloError(f"this model cannot be told {label[:50]!r}")
        if not 0 <= _number(given, label) <= 1:
            raise RitornelloError(f"the weight of {label} is {given[label]}; it must lie between 0 and 1")
    return given


def _agreed(message: dict[str, Any]) -> dict[str, Any]:
    """How turns change in a duet."""
    agreed = {"takeover": message.get("takeover", TAKEOVERS[1]), "handback": message.get("handback", HANDBACKS[0])}
    for (name, value), values in zip(agreed.items(), (TAKEOVERS, HANDBACKS)):
        if value not in values:
            raise RitornelloError(f"{name} is one of {', '.join(values)}")
    return agreed


def _seconds(message: dict[str, Any], name: str) -> float:
    value = _number(message, name)
    if not 0 <= value <= 2 * MAX_SECONDS:
        raise RitornelloError(f"{name} is {value}; it must lie between 0 and {2 * MAX_SECONDS:.0f} seconds")
    return value


def _whole(message: dict[str, Any], name: str) -> int:
    value = message.get(name)
    if not isinstance(value, int) or isinstance(value, bool) or not 0 <= value < 2**53:
        raise RitornelloError(f"{name} must be a whole number, not negative")
    return value


def _number(message: dict[str, Any], name: str) -> float:
    value = message.get(name)
    if not isinstance(value, (int, float)) or isinstance(value, bool) or not abs(value) < 1e15:
        raise RitornelloError(f"{name} must be a number")
    return float(value)


def _name(host: str) -> str:
    """A Host header without its port."""
    return host[: host.index("]") + 1] if host.startswith("[") and "]" in host else host.partition(":")[0]
