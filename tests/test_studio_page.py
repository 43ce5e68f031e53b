"""The studio's page in a real browser: what a musician does on it, seen on the roll, heard, and read from files.

The engine behind it plays at no cost and without sense, so that what is tested is the page; what a musician does is
tested with the bundled model too, on the server and in the browser.
"""

from __future__ import annotations

import base64
import io
import json
import shutil
import time
import wave
from contextlib import ExitStack

import mido
import numpy as np
import pytest
from PIL import Image
from studio_server import Program, Served, Tinkling, site

from ritornello import read_midi
from ritornello.codec import steering
from ritornello.notes import Piece
from ritornello.performing import Performer
from ritornello.sampling import Sampling
from ritornello.studio import static

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium is installed")
every_engine = pytest.mark.parametrize("one_page", ["costless", "remote", "local"], indirect=True)

LABELS = steering.labels(("Bach", "Chopin", "Ravel"), ())
MELODY = Piece.from_notes(
    [(i / 2, i / 2 + 0.4, 60 + i % 12, 40 + 3 * i) for i in range(20)], pedals=[[2, 4]], title="Mine"
)

INSTRUMENT = "studio.sent = []; studio.hands.output = {send: (message) => studio.sent.push(message)}; undefined"


@pytest.fixture(scope="module")
def served():
    served = Served(Performer(Tinkling(labels=LABELS)))
    yield served
    served.stop()


@pytest.fixture(scope="module")
def launch():
    """Starts a browser, which is closed in the end if not before."""
    with sync_api.sync_playwright() as playwright, ExitStack() as stack:
        options = ["--no-sandbox", "--autoplay-policy=no-user-gesture-required"]

        def launched():
            return stack.enter_context(playwright.chromium.launch(executable_path=BROWSER, args=options))

        yield launched


@pytest.fixture(scope="module")
def browser(launch):
    return launch()


@pytest.fixture(scope="module")
def one_page(request, launch, served, tmp_path_factory):
    """A page in a browser of its own, with the costless engine, or the bundled model behind a server or in the page."""
    with ExitStack() as stack:
        address, kind = served.address, getattr(request, "param", "costless")
        if kind == "remote":
            program = Program()  # as musicians start it: what other tests did to this process is not felt
            stack.callback(program.kill)
            address = program.address
        elif kind == "local":
            folder = tmp_path_factory.mktemp("web") / "base"
            static.write_web("base", folder)
            address = stack.enter_context(site(folder))
        own = launch()
        yield opened(own.new_context(viewport={"width": 900, "height": 640}, accept_downloads=True), address)
        own.close()


@pytest.fixture
def page(one_page):
    """The page, with new music in it: 12 s of it are there."""
    one_page.wrong.clear()
    one_page.evaluate(
        "studio.transport.pause(); studio.transport.seek(0); studio.roll.setRegion(null); studio.maker.begin(5)"
    )
    until(one_page, "studio.maker.live?.upTo > 10")
    return one_page


def opened(context, address, *, sound=True):
    page = context.new_page()
    if not sound:  # which takes the browser longest to load
        page.route("**/piano/*", lambda route: route.abort())
    page.wrong, page.others = [], []  # what the browser complains of, and asks of others
    page.on("console", lambda message: page.wrong.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: page.wrong.append(str(error)))
    page.on(
        "request",
        lambda r: None if r.url.startswith(("http://127.0.0.1", "blob:", "data:")) else page.others.append(r.url),
    )
    page.goto(address)
    until(page, f"window.studio?.maker.live?.upTo > 10 && studio.samples.buffers.size >= {8 * sound}")
    return page


STATE = """[window.studio?.maker.live?.upTo, window.studio?.samples.buffers.size, document.visibilityState,
document.getElementById('status')?.textContent, window.studio?.transport.context?.state]"""


def until(page, condition, seconds=120) -> None:
    """Waits; playwright's own way evaluates text in the page, which its policy forbids."""
    end = time.monotonic() + seconds
    while not page.evaluate(condition):
        state = time.monotonic() < end or page.evaluate(STATE)
        assert state is True, f"never: {condition}; {state}, {page.wrong}"
        time.sleep(0.05)


def shown(page) -> list[list]:
    """The notes on the roll."""
    return page.evaluate("studio.roll.piece.notes.map(n => [n.start, n.end, n.pitch, n.velocity, Boolean(n.given)])")


def drop(page, piece, tmp_path) -> None:
    piece.write(tmp_path / "mine.mid")
    data = list((tmp_path / "mine.mid").read_bytes())
    page.evaluate(
        "data => { const items = new DataTransfer(); items.items.add(new File([new Uint8Array(data)], 'mine.mid'));"
        "window.dispatchEvent(new DragEvent('drop', {dataTransfer: items})); }",
        data,
    )
    until(page, "studio.session.piece.notes[0]?.given")


def saved(page, kind) -> bytes:
    page.click("#save")
    with page.expect_download() as download:
        page.click(f"[data-save={kind}]")
    return download.value.path().read_bytes()


def carried(page) -> tuple[str, bytes]:
    """The name and content of the MIDI file that is dragged out."""
    link = page.evaluate(
        "(() => { const items = new DataTransfer(); document.querySelector('#carry').dispatchEvent("
        "new DragEvent('dragstart', {dataTransfer: items})); return items.getData('DownloadURL'); })()"
    )
    kind, name, address = link.split(":", 2)
    assert kind == "audio/midi"
    return name, base64.b64decode(address.removeprefix("data:audio/midi;base64,"))


@every_engine
def test_new_music_is_heard_and_the_address_plays_it_again(page, browser):
    page.keyboard.press("Space")
    until(page, "studio.transport.position > 2 && studio.transport.sounding().length")
    wave = "(a => { const w = new Float32Array(a.fftSize); a.getFloatTimeDomainData(w); return w; })"
    until(page, f"Math.max(...{wave}(studio.piano.analyser)) > 0.005")
    assert page.evaluate("studio.transport.underruns") == 0
    page.keyboard.press("Space")
    until(page, "!studio.transport.playing")
    other = opened(browser.new_context(), f"{page.url.split('#')[0]}#seed=5", sound=False)
    assert "seed=5" in other.url
    for one in (page, other):  # 18 s are there then
        one.evaluate("studio.roll.emit('seek', 6)")
        until(one, "studio.maker.live.upTo > 15")
    first = [note for note in shown(page) if note[0] < 15]
    assert first
    assert [note for note in shown(other) if note[0] < 15] == first
    assert page.wrong + page.others + other.others == []
    other.context.close()


def test_new_music_is_heard_from_its_first_key_on_though_others_are_let_go_before(page):
    """What has finished is told first: of a chord's keys one may still sound that was struck before the others."""
    finished, sounding = (
        "[{start: 2.5, end: 9, pitch: 60, velocity: 60}]",
        "[{start: 2, end: 9, pitch: 48, velocity: 60}]",
    )
    page.evaluate("studio.maker.stop(); studio.session.begin(0); studio.transport.seek(0)")
    page.evaluate(f"studio.session.grow({finished}, {sounding})")
    page.click("#play")
    until(page, "studio.transport.playing")
    page.click("#play")
    until(page, "!studio.transport.playing")
    assert 1.9 <= page.evaluate("studio.transport.position") < 2.4


@every_engine
def test_a_dropped_file_is_gone_on_with_and_saved_as_it_is_shown(page, tmp_path):
    drop(page, MELODY, tmp_path)
    assert page.evaluate("studio.roll.state()")["given"] == len(MELODY)
    assert page.input_value("#title") == "Mine"
    page.click("#on")
    until(page, "studio.maker.live?.upTo > 20")
    page.keyboard.press("Space")
    page.click("#on")
    (tmp_path / "saved.mid").write_bytes(saved(page, "midi"))
    piece, expected = read_midi(tmp_path / "saved.mid"), shown(page)
    assert len(expected) > len(MELODY)
    assert min(note[0] for note in expected if not note[4]) >= MELODY.seconds
    rows = np.stack([piece.onset, piece.offset, piece.pitch, piece.velocity], axis=1)
    np.testing.assert_allclose(rows, [note[:4] for note in sorted(expected, key=lambda n: (n[0], n[2]))], atol=0.001)
    np.testing.assert_allclose(piece.pedals, MELODY.pedals, atol=0.001)
    assert carried(page) == ("Mine.mid", (tmp_path / "saved.mid").read_bytes())
    svg = saved(page, "svg").decode()
    assert svg.count("<rect") > len(expected)
    assert "Mine" in svg
    picture = Image.open(io.BytesIO(saved(page, "png")))
    assert picture.width == 1600
    assert len(picture.getcolors(1 << 20)) > 5
    assert page.wrong == []


@every_engine
def test_again_from_here_four_ways_and_back(page):
    first = shown(page)
    page.evaluate("studio.roll.emit('seek', 8)")
    page.keyboard.press("r")
    until(page, "studio.maker.live?.upTo > 18 && studio.session.past.length === 1")
    again = shown(page)
    assert [note for note in again if note[0] < 8] == [note for note in first if note[0] < 8]
    assert [note for note in again if note[0] >= 8] != [note for note in first if note[0] >= 8]
    page.keyboard.press("Space")
    page.evaluate("studio.roll.emit('seek', 6)")
    page.keyboard.press("c")
    until(page, "studio.maker.choice?.ways.every(way => way.ended || way.upTo > 9)")
    assert page.locator(".way").count() == 4
    music = page.evaluate("studio.maker.choice.ways.map(way => JSON.stringify(way.notes.slice(0, 5)))")
    assert len(set(music)) > 1
    page.keyboard.press("3")
    until(page, "studio.maker.choice.ways[2].notes.length > 3")
    third = page.evaluate("studio.maker.choice.ways[2].notes.slice(0, 3).map(n => [n.start, n.pitch])")
    page.keyboard.press("Enter")
    until(page, "!studio.maker.choice && studio.session.past.length === 2")
    assert [[note[0], note[2]] for note in shown(page) if note[0] >= 6][:3] == third
    page.keyboard.press("Control+z")
    assert [note for note in shown(page) if note[0] < 15] == [note for note in again if note[0] < 15]
    page.keyboard.press("Control+z")
    now = shown(page)
    assert [note for note in first if note not in now] == [], "those that sounded when it was left may be there too"
    page.keyboard.press("Control+Shift+z")
    page.keyboard.press("Control+Shift+z")
    assert [[note[0], note[2]] for note in shown(page) if note[0] >= 6][:3] == third
    page.keyboard.press("c")
    until(page, "studio.maker.choice")
    page.keyboard.press("Escape")
    until(page, "!studio.maker.choice")
    assert [[note[0], note[2]] for note in shown(page) if note[0] >= 6][:3] == third
    assert page.wrong == []


@every_engine
def test_a_gap_is_bridged_by_the_best_and_what_is_kept_stays(page, tmp_path):
    drop(page, MELODY, tmp_path)
    page.evaluate("studio.roll.setRegion({start: 7, end: 9})")
    page.click("#keep")
    assert page.evaluate("studio.session.piece.kept") == [{"start": 7, "end": 9}]
    page.evaluate("studio.roll.setRegion({start: 3, end: 5})")
    page.click("#fill")
    until(page, "studio.maker.choice?.ranked")
    nats = page.evaluate("studio.maker.choice.ways.map(way => way.nats)")
    assert len(nats) == 4
    assert nats == sorted(nats)
    page.evaluate("studio.maker.listen(0)")
    page.click("#accept")
    notes = shown(page)
    assert all(note[4] for note in notes if not 3 <= note[0] < 5)
    assert not any(note[4] for note in notes if 3 <= note[0] < 5)
    assert max((note[1] for note in notes if not note[4]), default=3) <= 5
    page.keyboard.press("Space")
    page.evaluate("studio.roll.emit('seek', 6)")
    page.keyboard.press("r")
    until(page, "studio.maker.choice?.ways[0].ended")  # up to what is kept, and no further
    page.keyboard.press("Enter")
    assert [note for note in shown(page) if note[0] >= 7] == [note for note in notes if note[0] >= 7]
    page.evaluate("studio.roll.emit('seek', 8)")
    page.keyboard.press("r")
    until(page, "document.querySelector('#status').textContent.includes('kept')")
    assert page.wrong == []


def test_the_midi_has_a_pedal_for_what_the_model_played_where_one_is_asked_for(page, tmp_path):
    """By hand: two of the model's notes end with one that was put in; the foot follows the lift before, at 3 s."""
    given = [[0, 0.3, 48, 60], [0.5, 0.8, 55, 60], [0.8, 4, 64, 60], [0.9, 3, 60, 60]]
    new = [[2, 4, 50, 60], [2.5, 4, 57, 60]]
    page.evaluate(
        "(rows) => { studio.maker.stop(); studio.session.begin(5, {title: 'Mine', kept: [],"
        "pedals: [{start: 0.1, end: 1.5}], notes: rows.map(([start, end, pitch, velocity], n) => "
        "({start, end, pitch, velocity, given: n < 4}))}); }",
        [*given, *new],
    )
    for asked, pedals, rows in (
        (False, [[0.1, 1.5]], [*given, *new]),
        (True, [[0.1, 1.5], [3.08, 4]], [*given, [2, 3.08, 50, 60], [2.5, 4, 57, 60]]),
    ):
        page.click("#save")
        page.set_checked("#pedal", asked)
        page.keyboard.press("Escape")
        (tmp_path / "saved.mid").write_bytes(saved(page, "midi"))
        piece = read_midi(tmp_path / "saved.mid")
        assert piece.pedals.tolist() == pedals
        assert [list(row) for row in zip(piece.onset, piece.offset, piece.pitch, piece.velocity)] == rows
        assert carried(page) == ("Mine.mid", (tmp_path / "saved.mid").read_bytes())
    assert page.wrong == []


def test_a_session_outlives_a_reload_and_travels_as_a_file(page, browser, served, tmp_path):
    drop(page, MELODY, tmp_path)
    page.evaluate("studio.roll.setRegion({start: 1, end: 2})")
    page.keyboard.press("k")
    before = shown(page)
    content = saved(page, "session")
    assert json.loads(content)["format"] == "ritornello-session/1"
    page.wait_for_timeout(1700)
    page.reload()
    until(page, "window.studio?.session.piece.kept.length")
    assert shown(page) == before
    (tmp_path / "one.ritornello").write_bytes(content)
    other = opened(browser.new_context(), served.address, sound=False)
    other.set_input_files("#file", tmp_path / "one.ritornello")
    until(other, "studio.session.piece.kept.length")
    assert shown(other) == before
    other.keyboard.press("Control+z")
    assert other.evaluate("studio.session.piece.kept") == []
    (tmp_path / "broken.mid").write_bytes(b"MThd, but no more")
    other.set_input_files("#file", tmp_path / "broken.mid")
    until(other, "document.querySelector('#status').classList.contains('trouble')")
    assert shown(other) == before
    other.context.close()
    assert page.wrong == []


def test_a_server_that_is_gone_is_told_and_gone_on_with_when_it_is_back(page, served):
    page.click("#play")
    until(page, "studio.transport.position > 0.5")
    notes = len(shown(page))
    served.stop()
    until(page, "document.querySelector('#status').textContent.includes('gone')")
    assert len(shown(page)) >= notes
    assert page.evaluate("studio.transport.playing")
    served.start()
    until(page, "studio.maker.live?.stream")
    end = page.evaluate("studio.roll.length")
    page.evaluate("studio.roll.emit('seek', studio.roll.length)")
    until(page, f"studio.maker.live.upTo > {end} + 5")


def test_a_program_that_is_killed_in_mid_play_is_told_and_gone_on_with(browser):
    """What is there is heard to its end; then it waits, without a key that is down, until the player is back."""
    program = Program()
    page = opened(browser.new_context(), program.address, sound=False)
    try:
        page.evaluate(
            "studio.sent = []; studio.hands.output = {send: (message) => studio.sent.push(message)}; undefined"
        )
        page.keyboard.press("Space")
        until(page, "studio.sent.some(([status, , velocity]) => status === 0x90 && velocity)")
        program.kill()
        until(page, "document.querySelector('#status').textContent.includes('gone')")
        made = shown(page)
        page.evaluate("studio.transport.seek(studio.roll.length - 1)")
        until(page, "studio.transport.waiting")
        page.wait_for_timeout(200)
        assert still_down(page) == set()
        assert shown(page) == made
        assert page.evaluate("studio.transport.playing")
        program.start()
        until(page, f"studio.roll.piece.notes.length > {len(made)} + 5 && !studio.transport.waiting")
        sent = page.evaluate("studio.sent.length")
        until(page, f"studio.sent.length > {sent} + 3")
        assert shown(page)[: len(made)] == made
        page.keyboard.press("Space")
        page.wait_for_timeout(200)
        assert still_down(page) == set()
    finally:
        program.kill()
        page.context.close()


def test_a_reload_in_mid_play_leaves_no_key_down_and_loses_nothing(page):
    page.evaluate(
        "localStorage.sent = '[]'; studio.hands.output = {send: (message) => {"
        "localStorage.sent = JSON.stringify([...JSON.parse(localStorage.sent), [...message]]); }}; undefined"
    )
    page.keyboard.press("Space")
    until(page, "JSON.parse(localStorage.sent).filter(([status]) => status === 0x90).length > 3")
    before = shown(page)
    page.reload()
    until(page, "window.studio?.session.piece.notes.length")
    after = shown(page)
    assert [note for note in before if note not in after] == []
    # What sounded then is let go, so that it is the music of seed 5 up to then, as the player ends it there.
    played = Performer(Tinkling()).generate(seconds=max(note[1] for note in after), seed=5).piece
    expected = zip(*(each.tolist() for each in (played.onset, played.offset, played.pitch, played.velocity)))
    np.testing.assert_allclose(np.array(after)[:, :4], list(expected), atol=1e-9)
    page.evaluate("studio.sent = JSON.parse(localStorage.sent)")
    assert still_down(page) == set()
    assert [0xB0, 120, 0] in page.evaluate("studio.sent"), "what was about to sound"
    until(page, "studio.maker.engine && studio.samples.buffers.size >= 8")


def test_a_reload_in_the_midst_of_a_duet_keeps_the_keys_that_are_down(page):
    page.keyboard.press("d")
    page.wait_for_selector("#duet:not([hidden])")
    page.keyboard.press("a", delay=50)
    until(page, "studio.duet.sounding.length")
    pitches = set(page.evaluate("studio.duet.sounding.map(({pitch}) => pitch)"))
    page.reload()
    until(page, "window.studio?.session.piece.notes.length")
    after = shown(page)
    assert [note[2] for note in after if note[4]] == [60]
    assert pitches <= {note[2] for note in after if not note[4]}
    assert all(0.019 <= note[1] - note[0] < 60 for note in after)
    until(page, "studio.maker.engine && studio.samples.buffers.size >= 8")


def still_down(page) -> set[int]:
    """The keys that an instrument was told to strike and not to let go."""
    down: set[int] = set()
    for status, pitch, velocity in page.evaluate("studio.sent.map((message) => [...message])"):
        if status == 0xB0 and pitch == 123:
            down.clear()
        elif status in (0x80, 0x90):
            (down.add if status == 0x90 and velocity else down.discard)(pitch)
    return down


def test_the_sound_has_the_pitch_the_level_and_the_length_of_the_notes(page, tmp_path):
    piece = Piece.from_notes([(1, 2, 69, 100), (4, 5, 69, 30), (7, 8, 45, 60)])
    drop(page, piece, tmp_path)
    with wave.open(io.BytesIO(saved(page, "wav"))) as file:
        rate = file.getframerate()
        sound = np.frombuffer(file.readframes(file.getnframes()), "<i2") / 32768

    def level(start, end) -> float:
        return float(np.sqrt(np.mean(sound[int(start * rate) : int(end * rate)] ** 2)))

    def pitch(start) -> float:
        part = sound[int(start * rate) : int((start + 0.8) * rate)]
        spectrum = np.abs(np.fft.rfft(part * np.hanning(len(part)), 8 * len(part)))
        return float(np.argmax(spectrum[: len(spectrum) // 20]) * rate / (8 * len(part)))

    assert level(0, 0.97) < 1e-4
    assert level(1, 1.1) > 0.03
    assert 0.1 < level(4, 5) / level(1, 2) < 0.5
    assert level(2.8, 3.9) < level(1, 2) / 100
    assert pitch(1.05) == pytest.approx(440, abs=4)
    assert pitch(7.05) % 110 == pytest.approx(0, abs=3) or 110 - pitch(7.05) % 110 < 3
    assert np.abs(np.diff(sound)).max() < 0.5


def test_a_loop_at_another_tempo_reaches_an_instrument_and_leaves_no_key_down(page, tmp_path):
    drop(page, MELODY, tmp_path)
    page.evaluate(INSTRUMENT)
    page.evaluate("studio.roll.setRegion({start: 1, end: 2}); studio.transport.setTempo(2)")
    page.keyboard.press("l")
    page.keyboard.press("Space")
    until(page, "studio.sent.filter(([status]) => status === 0x90).length > 6")
    assert page.evaluate("studio.transport.position") < 2.5
    page.keyboard.press("Space")
    page.keyboard.press("l")
    page.evaluate("studio.hands.output = null; studio.transport.setTempo(1)")
    assert still_down(page) == set()
    assert {pitch for _, pitch, _ in page.evaluate("studio.sent")} == {62, 63}


@every_engine
def test_what_hands_play_is_recorded(page):
    page.click("#record")
    for letter in "adg":
        page.keyboard.down(letter)
        page.wait_for_timeout(80)
        page.keyboard.up(letter)
    page.evaluate("studio.hands.take(new Uint8Array([0x90, 72, 90])); studio.hands.take(new Uint8Array([0x80, 72, 0]))")
    page.click("#record")
    given = [note for note in shown(page) if note[4]]
    assert [note[2] for note in given] == [60, 64, 67, 72]
    assert given[3][3] == 90
    assert all(0.019 <= note[1] - note[0] < 3 for note in given)
    assert page.evaluate("document.querySelector('[data-pitch=\"72\"]').className") == "key c"


@every_engine
def test_a_duet_by_turns_is_heard_recorded_and_leaves_no_key_down(page):
    before = shown(page)
    page.evaluate(INSTRUMENT)
    page.click("#jam")
    duet_by_turns(page)
    page.click("#jam")
    until(page, "!studio.duet.stream")
    assert still_down(page) == set()
    page.evaluate("studio.hands.output = null")
    notes = [note for note in shown(page) if note not in before]
    mine, its = ([note for note in notes if note[4] is given] for given in (True, False))
    assert [note[2] for note in mine] == [60, 64, 67, 72, 50, 55, 57, 59, 62]
    assert its
    assert page.evaluate("studio.session.piece.pedals.length") == 2
    tracks = mido.MidiFile(file=io.BytesIO(saved(page, "midi"))).tracks
    struck = [[message.note for message in track if message.type == "note_on"] for track in tracks]
    assert struck[0] == [note[2] for note in mine]
    assert len(struck[1]) == len(shown(page)) - len(mine)
    page.keyboard.press("Control+z")
    after = shown(page)  # the piece from before, which may have been played on meanwhile
    assert [note for note in after if note in before] == before
    assert not any(note[4] for note in after if note not in before)
    assert page.wrong == []


def duet_by_turns(page) -> None:
    """The model comes in after a silence, with the pedal and with a key, and goes at a touch."""
    turn = "document.querySelector('#turn').textContent"
    page.wait_for_selector("#duet:not([hidden])")
    assert "listens" in page.inner_text("#turn")
    for letter in "adgk":
        page.keyboard.press(letter, delay=60)
    assert page.evaluate(turn) == "You play"
    until(page, f"{turn} === 'The model plays' && document.querySelector('.key.sounds')")
    silent = page.evaluate(
        "(studio.hands.take(new Uint8Array([0x90, 50, 80])), "
        f"[{turn}, studio.duet.sounding.length, studio.duet.timers.size])"
    )
    assert silent == ["You play", 0, 0]
    page.evaluate("studio.hands.take(new Uint8Array([0x80, 50, 0]))")
    page.select_option("#takeover", "pedal")
    page.select_option("#handback", "pedal")
    page.focus("#keys")
    page.keyboard.down("Shift")
    page.evaluate("[0x90, 0x80].forEach(status => studio.hands.take(new Uint8Array([status, 55, 70])))")
    page.wait_for_timeout(100)
    assert page.evaluate(turn) == "You play"
    page.keyboard.up("Shift")
    until(page, f"{turn} === 'The model plays' && studio.duet.sounding.length")
    page.keyboard.down("Shift")
    assert page.evaluate(f"[{turn}, studio.duet.sounding.length]") == ["You play", 0]
    page.evaluate("[0x90, 0x80].forEach(status => studio.hands.take(new Uint8Array([status, 57, 70])))")
    page.keyboard.up("Shift")
    until(page, f"{turn} === 'The model plays'")
    page.evaluate("[0x90, 0x80].forEach(status => studio.hands.take(new Uint8Array([status, 59, 70])))")
    page.select_option("#takeover", "key")
    page.wait_for_timeout(100)
    page.evaluate("studio.hands.take(new Uint8Array([0x90, 21, 70]))")
    until(page, f"{turn} === 'The model plays' && studio.duet.sounding.length")
    page.evaluate("[0x80, 0x90].forEach(status => studio.hands.take(new Uint8Array([status, 21, 70])))")
    assert page.evaluate(turn) == "You play"
    page.evaluate("[0x90, 0x80].forEach(status => studio.hands.take(new Uint8Array([status, 62, 70])))")
    page.select_option("#takeover", "silence")
    page.select_option("#handback", "key")


def test_a_server_that_goes_in_the_midst_of_a_duet_takes_its_keys_along(page, served):
    page.keyboard.press("d")
    page.wait_for_selector("#duet:not([hidden])")
    page.keyboard.press("a", delay=50)
    until(page, "studio.duet.sounding.length")
    served.stop()
    until(page, "document.querySelector('#status').textContent.includes('gone')")
    assert page.evaluate("[studio.duet.sounding.length, studio.duet.timers.size]") == [0, 0]
    assert page.is_hidden("#duet")
    assert [note[2] for note in shown(page) if note[4]] == [60]
    served.start()
    until(page, "studio.maker.engine")


def test_what_the_music_is_to_be_is_told_to_the_player_kept_and_let_go(page, served):
    def told(**expected):
        weights = steering.weights(LABELS, {label.replace("_", "="): weight for label, weight in expected.items()})
        end = time.monotonic() + 10
        while not np.allclose(served.performer.engine.told, weights):
            assert time.monotonic() < end, served.performer.engine.told
            time.sleep(0.02)

    page.click("#character")
    page.focus("#density")
    for _ in range(3):
        page.keyboard.press("ArrowRight")
    told(density_3=1)
    assert page.get_attribute("#density", "aria-valuetext") == "rather sparse"
    page.select_option("#composer", "Chopin")
    told(density_3=1, composer_Chopin=1)
    assert page.is_hidden("#blend")
    page.select_option("#second", "Bach")
    page.focus("#blend")
    page.keyboard.press("ArrowLeft")
    told(density_3=1, composer_Chopin=0.55, composer_Bach=0.45)
    page.keyboard.press("Escape")
    session = saved(page, "session").decode()
    page.click("#character")
    page.click("#usual")
    told()
    assert "density" not in page.url
    usual = Sampling()
    sliders = [float(page.input_value(f"#{name}")) for name in ("temperature", "topP", "minP", "returns")]
    assert sliders == [usual.temperature, usual.top_p, usual.min_p, usual.returns]
    page.evaluate("text => studio.session.fromText(text)", session)
    page.evaluate("studio.maker.goOn()")
    told(density_3=1, composer_Chopin=0.55, composer_Bach=0.45)
    assert "density%3D3=1" in page.url
    page.keyboard.press("Escape")
    assert page.wrong == []


def test_twenty_thousand_notes_scroll_without_being_drawn_anew(page):
    drawn = page.evaluate(
        """async () => {
          const notes = Array.from({length: 20000}, (_, n) => (
            {start: n / 20, end: n / 20 + 0.3, pitch: 30 + (n * 7) % 60, velocity: 20 + n % 100}));
          const {roll} = studio;
          roll.setPiece({title: '', notes, pedals: [], kept: []});
          let pictures = 0;
          const draw = roll.drawPicture.bind(roll);
          roll.drawPicture = () => { pictures++; draw(); };
          for (let n = 0; n < 120; n++) { roll.setPosition(n / 60, notes.slice(n, n + 5)); roll.draw(); }
          roll.fit();
          roll.draw();
          return {pictures, state: roll.state()};
        }"""
    )
    assert drawn["pictures"] <= 2
    assert drawn["state"]["notes"] == 20_000


def test_everything_has_a_name_and_no_page_is_wider_than_its_window(page):
    page.click("#settings")
    unnamed = page.evaluate(
        """[...document.querySelectorAll('button, input, select, canvas, [role]')].filter(e => !e.hidden && !(
          e.getAttribute('aria-label') || e.textContent.trim() || e.labels?.length || e.title)).map(e => e.outerHTML)"""
    )
    assert unnamed == []
    for width in (390, 1280, 2560):
        page.set_viewport_size({"width": width, "height": 800})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        assert page.evaluate("document.querySelector('#roll').clientHeight") > 150
