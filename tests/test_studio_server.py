"""The studio's server: plays what it is asked to, and nothing that reaches it breaks it or gets out of it."""

from __future__ import annotations

import asyncio
import json
import math
import sys
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scripted import RELAXED, Scripted, final_s
from studio_server import Program, Served, Tinkling
from tiny import random_model

from ritornello import codec
from ritornello.codec import steering
from ritornello.engines.framework import TorchEngine
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.studio import server
from ritornello.studio.voices import LATER, NOW, Partner, Voice

pytest.importorskip("starlette")
from starlette.testclient import TestClient
from starlette.websockets import WebSocketDisconnect

HOST = "http://127.0.0.1:8765"
LABELS = steering.labels(("Bach", "Chopin"), ())
SCALE = [[i / 2, i / 2 + 0.4, 60 + i, 64] for i in range(8)]


@pytest.fixture
def performer() -> Performer:
    return Performer(Tinkling(labels=LABELS))


@pytest.fixture
def client(performer):
    with TestClient(server.application(performer), base_url=HOST) as client:
        yield client


def connect(client, origin=HOST, **more):
    headers = {"host": str(client.base_url).split("//")[1].rstrip("/")} | ({"origin": origin} if origin else {})
    return client.websocket_connect("/session" + more.get("query", ""), headers=headers | more.get("headers", {}))


class Page:
    """What a page does."""

    def __init__(self, socket) -> None:
        self.socket, self.hello = socket, socket.receive_json()

    def send(self, op, number=1, **content) -> None:
        self.socket.send_text(json.dumps({"op": op, "id": number, **content}))

    def start(self, number=1, notes=(), seed=1, until=None, **more) -> None:
        self.send("start", number, notes=list(notes), seed=seed, **more)
        if until is not None:
            self.send("advance", number, until=until)

    def played(self, up_to, number=1):
        """The notes of a stream, until all that start before ``up_to`` are there; its credit must lie well beyond."""
        notes = []
        while True:
            message = self.socket.receive_json()
            assert message["op"] in ("notes", "end"), message
            if message["id"] == number:
                notes += message.get("notes", [])
                if message["upTo"] >= up_to or message["op"] == "end":
                    return sorted(note for note in notes if note[0] < up_to)


@pytest.fixture
def page(client):
    with connect(client) as socket:
        yield Page(socket)


def rows(piece: Piece) -> list[list]:
    columns = (piece.onset, piece.offset, piece.pitch, piece.velocity)
    return [list(row) for row in zip(*(column.tolist() for column in columns))]


def test_it_plays_what_the_player_plays_for_the_same_seed(page, performer):
    page.start(seed=7, until=40)
    expected = [row for row in rows(performer.generate(seconds=60, seed=7).piece) if row[0] < 20]
    assert page.played(20) == sorted(expected)
    assert len(expected) > 20


def test_it_goes_on_where_a_prompt_is_cut_and_not_before(page):
    page.start(notes=SCALE, **{"from": 2.2}, until=30)
    notes = page.played(12)
    assert notes
    assert min(note[0] for note in notes) >= 2.2


def test_what_sounds_still_is_told_as_if_it_were_let_go(page, performer):
    """Whenever the page goes: what it was told is the music up to then, as the player ends it there."""
    page.start(seed=7)
    notes, sounding, up_to, sounded = [], [], 0.0, 0
    for until_s in range(3, 33, 3):
        page.send("advance", until=until_s)
        while up_to < until_s:
            message = page.socket.receive_json()
            notes += message["notes"]
            sounding, up_to = message["sounding"], message["upTo"]
        now_s = sounding[0][1] if sounding else up_to
        assert sorted(notes + sounding) == sorted(rows(performer.generate(seconds=now_s, seed=7).piece))
        sounded += len(sounding)
    assert sounded


def test_music_waits_for_its_credit(page, performer):
    page.start(until=30)
    page.played(10)
    counts = [-1, performer.engine.read_tokens]
    while counts[-1] != counts[-2]:
        assert len(counts) < 40, "it never waits"
        time.sleep(0.25)
        counts.append(performer.engine.read_tokens)
    page.send("advance", until=60)
    assert page.played(40)


def test_a_key_held_for_long_does_not_stop_the_music():
    """What is asked for is made until it can be heard: here that is when the first key is let go."""
    written = [(0, 30, 50, 64), *((second, second + 0.5, 60, 64) for second in range(1, 60))]
    tokens = codec.encode(Piece.from_notes(written))[:-1]
    engine, told = Scripted(tokens.tolist()), []
    voice = Voice(
        Performer(engine).begin(),
        tokens[:0],
        from_s=0.0,
        seed=1,
        sampling=Sampling(temperature=0, returns=0),
        told={},
        tell=told.append,
    )
    turns = voice.turns()
    for until_s, made_s in ((12.0, 30.0), (41.0, 41.0)):
        voice.until_s = until_s
        while next(turns) == NOW:
            pass
        assert told[-1]["upTo"] == voice.take.seconds == made_s
        heard = [note for message in told for note in message["notes"]]
        expected = rows(codec.decode(tokens))
        assert sorted(heard) == [note for note in expected if note[1] <= made_s]


def test_forks_go_on_from_one_moment_with_seeds_of_their_own(page):
    page.start(notes=SCALE, seed=1)
    for number, seed in ((2, 5), (3, 5), (4, 6)):
        page.send("fork", number, **{"from": 1}, seed=seed)
    music = {}
    for number in (2, 3, 4):
        page.send("advance", number, until=30)
        music[number] = page.played(20, number)
    assert music[2] == music[3] != music[4]
    assert all(note[0] >= 3.9 for notes in music.values() for note in notes)


def test_a_prompt_that_was_heard_is_not_read_again(page, performer):
    long = [[i / 2, i / 2 + 0.4, 60 + i % 20, 64] for i in range(400)]
    page.start(1, long, until=230)
    page.played(202, 1)
    before = performer.engine.read_tokens
    page.start(2, long, until=230, seed=2)
    page.played(202, 2)
    assert performer.engine.read_tokens - before < 400
    page.start(3, long, until=230, seed=2, told=LOUD)  # hears it otherwise
    page.played(202, 3)
    assert performer.engine.read_tokens - before > 800


def test_sampling_acts_on_what_is_played_next(page):
    page.start(sampling={"temperature": 1}, until=45)
    assert max(note[2] for note in page.played(40)) > 75
    page.send("sampling", sampling={"temperature": 0})
    page.send("advance", until=200)
    later = [note for note in page.played(150) if note[0] > 50]
    assert max(note[2] for note in later) < 62  # of keys that are as likely the lowest that do not sound


BLEND, LOUD = {"composer=Bach": 0.25, "composer=Chopin": 0.75, "density=2": 1}, {"loudness=7": 1}


def test_what_is_told_acts_from_the_prompt_on_and_may_change_and_forks_keep_it():
    engine = TorchEngine(random_model(7, labels=LABELS))
    prompt = codec.encode(Piece.from_notes(SCALE))[:-1]

    def expected(later):
        take, rng, notes, keys, event = Performer(engine, told=BLEND).begin(), np.random.default_rng(3), [], {}, None
        take.hear(prompt)
        while (now_s := final_s(take, keys, event)) < 15 and not take.ended:
            if now_s >= 6:
                take.tell(later)
            event = take.play(Sampling(), rng)
            notes += event.finished
        return [list(note) for note in notes if note.onset >= 3.9]

    def play(voice, until_s):
        voice.until_s = until_s
        turns = voice.turns()
        while next(turns, LATER) == NOW:
            pass

    told = {name: [] for name in ("kept", "changed", "other", "none")}
    voices = {
        "none": Voice(
            Performer(engine).begin(),
            prompt,
            from_s=3.9,
            seed=3,
            sampling=Sampling(),
            told=BLEND,
            tell=told["none"].append,
        )
    }
    first = voices["none"]
    early = first.fork(3, told["other"].append)  # before the prompt is heard
    early.steer({})
    play(first, 0.0)
    for name in ("kept", "changed"):
        voices[name] = first.fork(3, told[name].append)
        play(voices[name], 6.0)
    voices["changed"].steer(LOUD)
    voices["other"] = early
    for name in ("kept", "changed", "other"):
        play(voices[name], 15.0)
    heard = {name: [n for message in messages for n in message.get("notes", [])] for name, messages in told.items()}
    assert heard["kept"] == expected(BLEND)
    assert heard["changed"] == expected(LOUD) != heard["kept"]
    assert heard["other"] != heard["kept"]


def test_a_page_tells_its_streams(page, performer):
    assert page.hello["about"]["labels"] == list(LABELS)
    for op, told in (("start", BLEND), ("told", LOUD), ("told", {})):
        page.send(op, seed=1, told=told)
        end = time.monotonic() + 10
        while not np.array_equal(performer.engine.told, steering.weights(LABELS, told)):
            assert time.monotonic() < end, op
            time.sleep(0.01)


@pytest.mark.parametrize("told", [[1], {"composer=Liszt": 1}, {"a\nb": 1}, {"density=2": True}, {"density=2": 1.5}])
def test_what_cannot_be_told_is_refused_in_one_line(page, told):
    for op in ("start", "told"):
        page.send(op, seed=1, told=told)
        answer = page.socket.receive_json()
        assert answer["op"] == "error"
        assert "\n" not in answer["message"]


def test_the_end_of_a_piece_is_told():
    with (
        TestClient(server.application(Performer(Tinkling(ends=3.0))), base_url=HOST) as client,
        connect(client) as socket,
    ):
        page = Page(socket)
        page.start(until=3600)
        page.played(math.inf)


def test_scores_are_mean_nats_of_what_is_legal(page, performer):
    piece = Piece.from_notes(SCALE)
    tokens = codec.encode(piece)[:-1]
    steps, grammar, expected = codec.steps_of(tokens), codec.Grammar(), []
    for token, step in zip(tokens.tolist(), steps.tolist()):
        weights = np.exp(performer.engine.logits.astype(np.float64)) * grammar.legal()
        if 100 <= step < 300:
            expected.append(-math.log(weights[token] / weights.sum()))
        grammar.advance(token)
    page.send("score", notes=SCALE, **{"from": 1, "to": 3})
    assert page.socket.receive_json()["nats"] == pytest.approx(np.mean(expected), rel=1e-9)


# ---- the duet ----


def until_op(page, op):
    """The messages up to one."""
    messages = [page.socket.receive_json()]
    while messages[-1]["op"] != op:
        messages.append(page.socket.receive_json())
    return messages


def test_a_partner_takes_turns_by_the_page_s_clock(page):
    """It is 1,000 s behind ours. Keys come before their time; what is over is told from the first key on."""

    def play(*message):
        page.send("midi", at=time.monotonic() - 1000, message=list(message))

    page.send("duet", seed=1, takeover="key")
    play(0x90, 60, 64)
    time.sleep(0.2)
    play(0x80, 60, 0)
    page.send("sampling", sampling={"temperature": 0.9})
    page.send("told", told={})
    page.send("advance", until=5)  # what is meant for streams of another kind changes nothing
    page.send("fork", 2, seed=1, **{"from": 1})
    assert until_op(page, "error")[-1]["id"] == 2
    play(0x90, 21, 64)
    turn = until_op(page, "turn")[-1]
    assert (turn["turn"], turn["playing"]) == (1, True)
    keys = [message for message in until_op(page, "key") + until_op(page, "key") if message["op"] == "key"]
    late = [time.monotonic() - 1000 - key["at"] for key in keys]
    assert all(-0.11 < late_s < 5 for late_s in late)
    assert {key["turn"] for key in keys} == {1}
    page.send("agree", takeover="pedal", handback="pedal")
    play(0xB0, 64, 127)
    assert until_op(page, "turn")[-1]["playing"] is False
    play(0x90, 62, 64)
    play(0x80, 62, 0)
    play(0xB0, 64, 0)
    assert until_op(page, "turn")[-1]["turn"] == 2
    page.send("finish", at=time.monotonic() - 1000)
    last = until_op(page, "end")
    assert [pedal for message in last for pedal in message.get("pedals", [])]
    page.start(9, until=40)
    assert page.played(15, 9)


def test_a_page_whose_clock_jumps_is_not_believed(page):
    """Else hours of rest would have to be read, with a key down that nobody skips them by."""
    page.send("duet", seed=1, takeover="key")
    for at in (0.0, 1e12, 5.0, -1e12):
        page.send("midi", at=at, message=[0x90, 60, 64])
    page.send("finish", at=1e13)
    notes = [note for message in until_op(page, "end") for note in message.get("notes", [])]
    assert len(notes) == 4
    assert all(0 <= onset <= offset < 30 for onset, offset, *_ in notes)


@pytest.mark.parametrize(
    "content",
    [
        "no JSON",
        "[]",
        "{}",
        "[" * 100_000,
        '{"op": "start"}',
        '{"op": "take", "id": 1}',
        '{"op": "__init__", "id": 1}',
        '{"op": "start", "id": 1, "seed": 1, "notes": [[0, 1, 60]]}',
        '{"op": "start", "id": 1, "seed": 1, "notes": [[0, NaN, 60, 64]]}',
        '{"op": "start", "id": 1, "seed": 1, "notes": [[0, 99999, 60, 64]]}',
        '{"op": "start", "id": 1, "seed": 1, "notes": [[5, 1, 60, 64]]}',
        '{"op": "start", "id": 1, "seed": 1, "notes": {"a": 1}}',
        '{"op": "start", "id": 1, "seed": 1, "pedals": [[1]]}',
        '{"op": "start", "id": 1, "seed": -1}',
        '{"op": "start", "id": 1, "seed": 1e400}',
        '{"op": "start", "id": 1, "seed": 1, "sampling": {"temperature": -1}}',
        '{"op": "start", "id": 1, "seed": 1, "sampling": {"topP": true}}',
        '{"op": "start", "id": 1, "seed": 1, "from": -5}',
        '{"op": "fork", "id": 2, "from": 77, "seed": 1}',
        '{"op": "duet", "id": 1, "seed": 1, "takeover": "nod"}',
        '{"op": "duet", "id": 1, "seed": 1, "handback": []}',
        '{"op": "duet", "id": 1, "takeover": "key"}',
        '{"op": "agree", "id": 1, "takeover": "key", "handback": "never"}',
        '{"op": "midi", "id": 1, "at": "now", "message": [144, 60, 64]}',
        '{"op": "midi", "id": 1, "at": 1, "message": [144, 60, 300]}',
        '{"op": "midi", "id": 1, "at": 1, "message": "AAAA"}',
        '{"op": "finish", "id": 1}',
        json.dumps({"op": "start", "id": 1, "seed": 1, "notes": [[0, 1, 60, 64]] * (server.MAX_NOTES + 1)}),
    ],
)
def test_what_is_no_message_is_refused_in_one_line_and_the_page_goes_on(page, content):
    page.socket.send_text(content)
    answer = page.socket.receive_json()
    assert answer["op"] == "error"
    assert answer["message"]
    assert "\n" not in answer["message"]
    assert "Traceback" not in answer["message"]
    page.start(9, until=40)
    assert page.played(15, 9)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=8,
)
NAMES = ("id", "seed", "notes", "pedals", "from", "to", "until", "sampling", "told", "at", "message", "takeover")
OPS = st.sampled_from(
    ["start", "advance", "sampling", "told", "fork", "close", "score", "duet", "agree", "midi", "finish"]
)


@settings(RELAXED, max_examples=25)
@given(st.lists(st.fixed_dictionaries({"op": OPS}, optional=dict.fromkeys(NAMES, VALUES)), max_size=5))
def test_any_messages_leave_the_server_playing(messages):
    with TestClient(server.application(Performer(Tinkling())), base_url=HOST) as client, connect(client) as socket:
        page = Page(socket)
        for message in messages:
            socket.send_text(json.dumps(message))
        page.start(2**40, until=3)
        while (answer := socket.receive_json()).get("id") != 2**40:
            assert "\n" not in answer.get("message", "")
        assert answer["op"] == "notes"


def refused(client, **how) -> bool:
    try:
        with connect(client, **how):
            return False
    except WebSocketDisconnect:
        return True


def test_other_sites_do_not_get_in(client):
    assert not refused(client)
    assert refused(client, origin="http://evil.example")
    assert refused(client, origin="http://127.0.0.1:8766")
    assert refused(client, origin="null")
    assert refused(client, origin=None)
    # A name of another site that was made to lead here.
    assert refused(client, origin="http://evil.example:8765", headers={"host": "evil.example:8765"})
    assert client.get("/", headers={"host": "evil.example:8765"}).status_code == 403


def test_another_address_wants_the_token(performer):
    app = server.application(performer, host="0.0.0.0", token="secret")
    with TestClient(app, base_url="http://studio.example:8765") as client:
        origin = "http://studio.example:8765"
        assert refused(client, origin=origin)
        assert refused(client, origin=origin, query="?token=wrong")
        assert refused(client, origin="http://evil.example", query="?token=secret")
        assert not refused(client, origin=origin, query="?token=secret")


def test_the_page_and_all_it_names_are_there_under_a_strict_policy(client):
    page = client.get("/")
    assert "default-src 'none'" in page.headers["content-security-policy"]
    assert "unsafe-inline" not in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    scripts = [path.name for path in server.PAGE.glob("*.js")]
    assert len(scripts) > 8
    for name in ["style.css", "icon.svg", *scripts, "piano/C4-soft.mp3", "piano/LICENCE"]:
        answer = client.get(f"/{name}")
        assert answer.status_code == 200, name
        if name.endswith(".js"):
            assert answer.headers["content-type"].startswith("text/javascript")
            assert "http://" not in answer.text.replace("http://www.w3.org/2000/svg", "")
            assert "https://" not in answer.text


@pytest.mark.parametrize(
    "path",
    [
        "/../server.py",
        "/%2e%2e/server.py",
        "/..%2fserver.py",
        "/piano/../../server.py",
        "//etc/passwd",
        "/..%5cserver.py",
        "/%00",
    ],
)
def test_no_file_outside_of_the_page_is_given(client, path):
    answer = client.get(path)
    assert answer.status_code in (400, 404)
    assert "import" not in answer.text


def test_there_are_so_many_pages_and_voices_and_no_more(client):
    pages = [connect(client) for _ in range(server.MAX_SESSIONS)]
    first = Page(pages[0].__enter__())
    for socket in pages[1:]:
        assert socket.__enter__().receive_json()["op"] == "hello"
    with connect(client) as late:
        assert late.receive_json()["op"] == "error"
    for number in range(server.MAX_VOICES):
        first.start(number)
    first.start(99)
    messages = [first.socket.receive_json() for _ in range(server.MAX_VOICES + 1)]
    assert [message["id"] for message in messages if message["op"] == "error"] == [99]
    for socket in pages:
        socket.__exit__(None, None, None)
    assert not refused(client)


def test_a_page_that_says_nothing_is_let_go(performer):
    app = server.application(performer, idle_s=0.1)
    with TestClient(app, base_url=HOST) as client, connect(client) as socket:
        assert socket.receive_json()["op"] == "hello"
        with pytest.raises(WebSocketDisconnect):
            socket.receive_json()


async def dropped(websockets, address: str) -> None:
    """A page that asks for hours of music, hears the first of it, and is cut off."""
    async with websockets.connect(address.replace("http", "ws") + "session", origin=address.rstrip("/")) as socket:
        assert json.loads(await socket.recv())["op"] == "hello"
        await socket.send(json.dumps({"op": "start", "id": 1, "seed": 1, "notes": SCALE}))
        await socket.send(json.dumps({"op": "advance", "id": 1, "until": 7200}))
        await socket.recv()
        socket.transport.abort()


def test_huge_frames_and_dropped_pages_leave_nothing_behind(performer):
    websockets = pytest.importorskip("websockets")
    served = Served(performer)
    url, origin = served.address.replace("http", "ws") + "session", served.address.rstrip("/")

    async def huge() -> None:
        async with websockets.connect(url, origin=origin, max_size=None) as socket:
            await socket.recv()
            await socket.send("x" * 50_000_000)
            await socket.wait_closed()
            assert socket.close_code == 1009

    async def all_of_it() -> None:
        await huge()
        for _ in range(100):
            await dropped(websockets, served.address)
            await asyncio.sleep(0.02)
        await asyncio.sleep(1)

    try:
        asyncio.run(all_of_it())
        before = performer.engine.read_tokens
        time.sleep(0.3)
        assert performer.engine.read_tokens == before  # nobody plays any more
    finally:
        served.stop()


@pytest.mark.skipif(sys.platform != "linux", reason="what a process holds in memory is read from /proc")
def test_a_hundred_pages_that_are_cut_off_leave_no_memory_behind():
    """Of the bundled model, whose voices hold 14 MB each."""
    websockets = pytest.importorskip("websockets")
    program = Program()

    async def drop(count: int) -> None:
        for _ in range(count):
            await dropped(websockets, program.address)
            await asyncio.sleep(0.02)
        await asyncio.sleep(0.5)

    try:
        asyncio.run(drop(20))
        before = program.resident_mb()
        asyncio.run(drop(80))
        assert program.resident_mb() < before + 4 * 14
    finally:
        program.kill()


def test_a_taken_port_is_refused_in_one_line(command):
    import socket

    from command import assert_refused

    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        assert_refused(command("studio", "--port", port, "--no-open"), f"127.0.0.1:{port}", "--port")


def test_an_agreement_does_not_overtake_keys_that_wait():
    """The key that calls the model is struck, and then the model comes in after silences: it is no note."""
    told = []
    partner = Partner(
        Performer(Tinkling()), seed=1, takeover="key", handback="key", tell=told.append, clock=lambda: 10.0
    )
    for status, pitch in ((0x90, 60), (0x80, 60), (0x90, 21), (0x80, 21)):
        partner.hear(5.0, [status, pitch, 70])
    partner.agree("silence", "key")
    partner.hear(5.0, None)
    for _ in partner.turns():
        pass
    notes = [note for message in told if message["op"] == "notes" for note in message["notes"]]
    assert 21 not in [note[2] for note in notes]
    assert 60 in [note[2] for note in notes]
    assert any(message["op"] == "turn" and message["playing"] for message in told)
