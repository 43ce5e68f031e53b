"""The duet: what is heard is what was played, the model's keys come by the clock, and none is left down."""

from __future__ import annotations

import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import mido
import numpy as np
import pytest
from conftest import made_up_piece, one_line
from scripted import shift

from ritornello import codec, live
from ritornello.duet import AHEAD_S, HANDBACKS, TAKEOVERS, Duet, Handback, Takeover
from ritornello.midi import read_midi
from ritornello.notes import Piece
from ritornello.performing import Performer


class Reading:
    """An engine that keeps what each of its sessions has read and plays a phrase again and again."""

    trained_on, labels = {}, ()

    def __init__(self, phrase: list[int]) -> None:
        self.phrase = phrase

    def begin(self) -> Lane:
        return Lane(self, [])


class Lane:
    motifs = None

    def __init__(self, engine: Reading, tokens: list[int]) -> None:
        self.engine, self.tokens = engine, tokens

    def read(self, tokens: np.ndarray) -> np.ndarray:
        self.tokens += tokens.tolist()
        phrase = self.engine.phrase
        begun = self.tokens[::-1].index(phrase[0]) + 1 if phrase[0] in self.tokens else 0
        logits = -100 * np.arange(codec.N_EVENTS, dtype=np.float32)  # where the phrase cannot go on, the shortest rest
        logits[phrase[begun % len(phrase)]] = 1000
        return logits

    def fork(self) -> Lane:
        return Lane(self.engine, list(self.tokens))


# Begins with a velocity that no other music here has, so that its place in the phrase is seen from what was read.
PHRASE = [
    *(codec.VELOCITY + 31, 100, 104, shift(30), codec.NOTE_OFF + 100, shift(20), codec.NOTE_OFF + 104, shift(25)),
    *(codec.VELOCITY + 30, 102, shift(15), codec.NOTE_OFF + 102, shift(40)),
]


RESTING = [*PHRASE[:-1], shift(100), shift(100), shift(30)]  # one may come in when a part of its rest is over


class Stage:
    """A duet on a clock of its own, and what comes out of its port."""

    def __init__(
        self, takeover: Takeover = "key", phrase: list[int] = PHRASE, *, handback: Handback = "key", lead_s: float = 0.0
    ) -> None:
        self.now_s = 0.0
        self.sent: list[tuple[float, int, int]] = []
        self.due: list[float] = []  # of each
        performer = Performer(Reading(phrase))
        self.duet = Duet(performer, self._send, seed=1, takeover=takeover, handback=handback, lead_s=lead_s)

    def _send(self, pitch: int, velocity: int, due_s: float) -> None:
        self.sent.append((self.now_s, pitch, velocity))
        self.due.append(due_s)

    def until(self, time_s: float) -> None:
        """Lets time pass, exactly as far each time as the duet asks for."""
        while self.now_s < time_s:
            wait_s = self.duet.tick(self.now_s)
            self.now_s = min(time_s, self.now_s + max(wait_s, 0.0)) if wait_s > 0 else self.now_s
        self.now_s = time_s
        while self.duet.tick(time_s) == 0.0:
            pass

    def play(self, events: Iterable[tuple[float, str, tuple]], until_s: float = np.inf, offset_s: float = 0.0) -> None:
        for time_s, kind, arguments in events:
            if time_s > until_s:
                break
            self.until(time_s + offset_s)
            getattr(self.duet, kind)(time_s + offset_s, *arguments)

    def heard(self) -> list[int]:
        return self.duet._heard._session.tokens[1:]  # without START


def events_of(piece: Piece) -> list[tuple[float, str, tuple]]:
    """What a person does to play a piece: a key that is struck again has come up."""
    rows: list[tuple[float, int, str, tuple]] = []
    keys: dict[int, list[list[float]]] = {}
    columns = (piece.onset, piece.offset, piece.pitch, piece.velocity)
    for onset, offset, pitch, velocity in zip(*(column.tolist() for column in columns)):
        line = keys.setdefault(pitch, [])
        if line and line[-1][0] == onset:
            line[-1] = [onset, max(offset, line[-1][1]), max(velocity, line[-1][2])]
            continue
        if line:
            line[-1][1] = min(line[-1][1], onset)
        line.append([onset, offset, velocity])
    for pitch, line in keys.items():
        for onset, offset, velocity in line:
            rows.append((onset, 3, "strike", (pitch, int(velocity))))
            rows.append((offset, 2 if offset > onset else 4, "release", (pitch,)))
    for down, up in piece.pedals.tolist():
        rows += [(up, 0, "pedal", (False,)), (down, 1, "pedal", (True,))]
    return [(time_s, kind, arguments) for time_s, _, kind, arguments in sorted(rows, key=lambda row: row[:2])]


def told(piece: Piece) -> list[int]:
    encoder, tokens = codec.StreamEncoder(), []
    for time_s, kind, arguments in events_of(piece):
        getattr(encoder, kind)(time_s, *arguments)
        tokens += encoder.until(time_s)
    return tokens + encoder.until(1e6)


def from_first_key(piece: Piece) -> Piece:
    first_s = float(piece.onset[0])
    times = (piece.onset - first_s, piece.offset - first_s)
    return Piece(*times, piece.pitch, piece.velocity, np.maximum(piece.pedals - first_s, 0))


# ---- what is heard ----


def test_what_is_told_key_by_key_is_the_encoding_of_the_piece() -> None:
    for seed in range(60):
        rng = np.random.default_rng(seed)
        piece = made_up_piece(rng, notes=80, seconds=8.0)
        down = np.sort(rng.uniform(0, 8, 6)).reshape(-1, 2)
        piece = Piece(piece.onset, piece.offset, piece.pitch, piece.velocity, down)
        assert told(piece) == codec.encode(piece)[:-1].tolist()


def test_what_is_told_of_performances_is_their_encoding(asap: Path) -> None:
    for path in sorted(asap.glob("**/*.mid"))[::90]:
        piece = read_midi(path)
        assert told(piece) == codec.encode(piece)[:-1].tolist(), path


@pytest.mark.parametrize("number", [7, 300, 600, 900])
def test_what_was_heard_at_a_takeover_is_the_encoding_up_to_there(asap: Path, number: int) -> None:
    """Also of keys and pedal that are down at that moment: their releases are still to come."""
    piece = from_first_key(read_midi(sorted(asap.glob("**/*.mid"))[number]))
    whole = codec.encode(piece)[:-1].astype(np.int64)
    at = codec.steps_of(whole)
    for moment_s in np.random.default_rng(3).uniform(5, min(40, piece.seconds), 3).tolist():
        step = int(moment_s * 100)
        stage = Stage()
        stage.play(events_of(piece), until_s=(step + 0.49) / 100)
        stage.until((step + 0.49) / 100)
        stage.duet.strike(stage.now_s, 21, 64)  # the key that calls the model
        assert stage.duet.playing
        expected = whole[at <= step]
        expected = expected[: np.flatnonzero((expected < codec.SHIFT) | (expected >= codec.VELOCITY))[-1] + 1]
        assert stage.heard() == expected.tolist()


@pytest.mark.parametrize("lead_s", [0.0, 0.1])
@pytest.mark.parametrize("phrase", [PHRASE, RESTING], ids=["busy", "resting"])
def test_after_many_turns_the_memory_holds_what_sounded(phrase: list[int], lead_s: float) -> None:
    """Both players' notes, written down as they sounded, encode to what the model has read."""
    stage, rng = Stage(phrase=phrase, lead_s=lead_s), np.random.default_rng(5)
    at_s = 0.0
    for turn in range(12):
        piece = made_up_piece(rng, notes=20, seconds=3.0)
        offset = np.minimum(piece.offset + 0.01, 4.0)  # keys that are held into the model's turn are its to let go
        piece = Piece(piece.onset + 0.01, offset, piece.pitch % 60 + 22, piece.velocity)
        stage.play(events_of(piece), offset_s=at_s)
        stage.until(at_s + 4.5)
        if turn % 3:
            stage.duet.strike(stage.now_s, 21, 64)
        at_s += 4.5 + float(rng.uniform(0.01, 3))
        stage.until(at_s)
    stage.duet.close(stage.now_s)
    notes = stage.duet.notes
    assert {note.by_model for note in notes} == {True, False}
    piece = Piece.from_notes(note[:4] for note in notes)
    assert stage.heard() == codec.encode(piece)[:-1].tolist()


def test_a_long_rest_between_two_phrases_is_not_heard_as_long() -> None:
    """Two notes of half a second, and 4.5 s of rest."""
    stage = Stage()
    for time_s in (0.0, 400.0):
        stage.until(time_s)
        stage.duet.strike(time_s, 60, 64)
        stage.until(time_s + 0.5)
        stage.duet.release(time_s + 0.5, 60)
    stage.until(402.0)
    assert codec.seconds_of(stage.heard()) == pytest.approx(5.5)
    assert stage.duet.notes[1].onset == pytest.approx(400.0)


def test_keys_outside_of_the_piano_are_heard_too() -> None:
    stage = Stage()
    for n, pitch in enumerate((0, 20, 109, 127)):
        stage.duet.strike(n * 0.1, pitch, 62)
        stage.duet.release(n * 0.1 + 0.05, pitch)
    stage.until(1.0)
    struck = [token for token in stage.heard() if token < codec.NOTE_OFF]
    assert struck == [0, 20, 109, 127]


# ---- turns ----


def phrase(stage: Stage, pedal: bool = False) -> None:
    """Eight keys, a quarter of a second apart."""
    for n in range(8):
        time_s = 0.25 * n
        stage.until(time_s)
        if pedal and n == 0:
            stage.duet.pedal(time_s, True)
        stage.duet.strike(time_s, 60 + n, 64)
        stage.until(time_s + 0.2)
        stage.duet.release(time_s + 0.2, 60 + n)


def test_silence_that_is_long_for_the_person_s_pace_gives_the_turn() -> None:
    stage = Stage("silence")
    phrase(stage)
    last_s = stage.now_s
    assert stage.duet.silence_s == pytest.approx(0.75)  # three times a quarter of a second
    stage.until(last_s + 0.7)
    assert not stage.duet.playing
    stage.until(last_s + 0.9)
    assert stage.duet.playing
    assert [key[1:] for key in stage.sent[:2]] == [(100, 126), (104, 126)]
    assert stage.sent[0][0] < last_s + 0.9


def test_the_pedal_gives_the_turn_when_it_comes_up_and_no_key_is_held() -> None:
    stage = Stage("pedal")
    phrase(stage, pedal=True)
    stage.until(3.0)
    assert not stage.duet.playing
    stage.duet.strike(3.0, 60, 64)
    stage.duet.pedal(3.1, False)
    assert not stage.duet.playing, "a key is held"
    stage.duet.pedal(3.2, True)
    stage.duet.release(3.3, 60)
    stage.until(4.0)
    stage.duet.pedal(4.0, False)
    stage.until(4.01)
    assert stage.duet.playing
    assert stage.sent
    assert stage.sent[0][0] == pytest.approx(4.0, abs=0.011)


def test_any_key_ends_the_model_s_turn_at_once_and_its_keys_are_let_go() -> None:
    stage = Stage()
    phrase(stage)
    stage.duet.strike(2.5, 21, 64)
    stage.until(5.123)
    down = {pitch for _, pitch, velocity in stage.sent if velocity} - {p for _, p, v in stage.sent[-1:] if not v}
    assert down
    before = len(stage.sent)
    stage.duet.strike(5.123, 50, 64)
    assert not stage.duet.playing
    assert {(pitch, velocity) for _, pitch, velocity in stage.sent[before:]} <= {(100, 0), (104, 0)}
    stage.until(20.0)
    assert not still_down(stage.sent)
    assert not [key for key in stage.sent if key[0] > 5.123]


def still_down(sent: list[tuple[float, int, int]]) -> set[int]:
    down: set[int] = set()
    for _, pitch, velocity in sent:
        (down.add if velocity else down.discard)(pitch)
    return down


@pytest.mark.parametrize("seed", range(8))
def test_no_key_is_left_down_wherever_it_ends(seed: int) -> None:
    stage, rng = Stage("silence"), np.random.default_rng(seed)
    time_s = 0.0
    for _ in range(40):
        time_s += float(rng.exponential(0.7))
        stage.until(time_s)
        pitch = int(rng.integers(22, 108))
        stage.duet.strike(time_s, pitch, int(rng.integers(1, 128)))
        if rng.random() < 0.9:
            time_s += float(rng.exponential(0.1))
            stage.until(time_s)
            stage.duet.release(time_s, pitch)
    stage.until(time_s + float(rng.uniform(0, 6)))
    stage.duet.close(stage.now_s)
    assert not still_down(stage.sent)
    ons = [pitch for _, pitch, velocity in stage.sent if velocity]
    offs = [pitch for _, pitch, velocity in stage.sent if not velocity]
    assert sorted(ons) == sorted(offs)
    assert sorted(ons) == sorted(note.pitch for note in stage.duet.notes if note.by_model)


def test_keys_come_when_they_are_due_however_slowly_the_clock_is_looked_at() -> None:
    stage = Stage()
    phrase(stage)
    stage.duet.strike(2.0, 21, 64)
    stage.until(4.0)
    assert stage.duet.delays.latest == pytest.approx(0.0, abs=1e-6)
    assert stage.duet.reserve_s <= AHEAD_S + 0.31
    for _ in range(60):  # now only every tenth of a second
        stage.now_s += 0.1
        while stage.duet.tick(stage.now_s) == 0.0:
            pass
    assert 0.0 < stage.duet.delays.latest <= 0.1 + 1e-6
    late = [time_s for time_s, _, velocity in stage.sent if velocity]
    assert np.all(np.diff(late) >= 0)
    assert stage.duet.reserve_s > 2, "the reserve has grown"


def test_keys_that_are_late_hesitate_once_and_keep_their_distances() -> None:
    """The clock is not looked at for a second and a half, three times as long as the reserve."""
    onsets = {}
    for stall_s in (0.0, 1.5):
        stage = Stage()
        phrase(stage)
        stage.duet.strike(2.0, 21, 64)
        stage.until(4.0)
        stage.now_s += stall_s
        stage.until(9.0)
        stage.duet.strike(9.0, 50, 64)
        stage.until(9.5)
        onsets[stall_s] = [time_s for time_s, _, velocity in stage.sent if velocity]
        notes = [note for note in stage.duet.notes if note.by_model]
        keys = [token for token in stage.heard() if token < codec.NOTE_OFF]
        assert keys[8:-1] == [note.pitch for note in sorted(notes, key=lambda note: (note.onset, note.pitch))]
    on_time, late = (np.diff(onsets[stall_s]) for stall_s in (0.0, 1.5))
    longer = late - on_time[: len(late)]
    (hesitation,) = np.flatnonzero(longer > 0.005)
    assert 1.0 < longer[hesitation] <= 1.5
    np.testing.assert_allclose(np.delete(longer, hesitation), 0, atol=1e-6)


@pytest.mark.parametrize("lead_s", [0.0, 0.1])
def test_a_chord_sounds_as_a_chord_however_long_its_events_take(lead_s: float, monkeypatch: pytest.MonkeyPatch) -> None:
    """The phrase begins with two keys at once: a velocity, both, and the rest that says that there is no third."""
    read, event_s, stage = Lane.read, 0.0025, Stage(lead_s=lead_s)

    def slow(lane: Lane, tokens: np.ndarray) -> np.ndarray:
        stage.now_s += event_s
        return read(lane, tokens)

    phrase(stage)
    monkeypatch.setattr(Lane, "read", slow)
    stage.until(2.5)
    stage.duet.strike(2.5, 21, 64)
    called_s = stage.now_s
    stage.until(3.0)
    assert [key[1:] for key in stage.sent[:2]] == [(100, 126), (104, 126)]
    assert stage.sent[0][0] == stage.sent[1][0] <= called_s + 4 * event_s
    assert stage.due[0] == stage.due[1]


def test_the_person_s_pedal_ends_the_turn_where_it_is_to() -> None:
    for handback, still in (("key", True), ("pedal", False)):
        stage = Stage(handback=handback)
        phrase(stage)
        stage.duet.strike(2.5, 21, 64)
        stage.until(4.0)
        stage.duet.pedal(4.0, True)
        assert stage.duet.playing is still
        assert bool(still_down(stage.sent)) is still


def test_a_pedal_that_is_down_before_the_first_key_tells_nothing() -> None:
    stage = Stage()
    stage.until(1000.0)
    stage.duet.pedal(1000.0, True)
    stage.duet.strike(1002.0, 60, 64)
    stage.duet.release(1002.5, 60)
    stage.duet.pedal(1003.0, False)
    stage.until(1004.0)
    assert stage.heard() == [codec.VELOCITY + 15, 60, shift(100), codec.NOTE_OFF + 60]
    stage.duet.close(1005.0)
    assert stage.duet.pedals == [(0.0, 1.0)]


def test_keys_that_are_sent_ahead_sound_as_they_would_otherwise() -> None:
    """Whoever plays them at their time hears the same; those that an interruption forgets were never heard."""
    early: list[float] = []
    for seed in range(10):
        messages = [(time_s, message) for time_s, message in scenario(seed)[0] if message]
        scripts = [performed(messages, "key", "key", lead_s) for lead_s in (0.0, 0.1)]
        at_once, ahead = (sorted(stage.duet.notes, key=lambda note: (note.pitch, note.onset)) for stage in scripts)
        assert len(at_once) == len(ahead)
        np.testing.assert_allclose(at_once, ahead, atol=1e-6)
        assert scripts[0].heard() == scripts[1].heard()
        early += [due_s - now_s for (now_s, _, velocity), due_s in zip(scripts[1].sent, scripts[1].due) if velocity]
    assert min(early) >= 0
    assert max(early) == pytest.approx(0.1, abs=1e-6)


# ---- scenarios, which the page's duet passes too ----


def scenario(seed: int) -> tuple[list[tuple[float, list[int]]], Takeover, Handback, float]:
    """What a person does, as MIDI messages by their times; and how turns go, and how far ahead keys are sent.

    An empty message stands for a clock that has not been looked at up to then.
    """
    rng = np.random.default_rng(seed)
    time_s, messages, down = 1000.0 * seed, [], set()
    for _ in range(60):
        pause = (0.02, 0.3, 0.3, 1.0, 3.0)[int(rng.integers(5))]
        if rng.random() < 0.1:
            time_s += float(rng.uniform(0.1, 1))
            messages.append((time_s, []))
        time_s += 30.0 if rng.random() < 0.02 else float(rng.exponential(pause))
        kind = rng.random()
        if kind < 0.55:
            pitch = int(rng.choice([0, 21, 60, 62, 64, 67, 100, 104, 127]))
            down.add(pitch)
            messages.append((time_s, [0x90, pitch, int(rng.integers(1, 128))]))
            if rng.random() < 0.2:  # it bounces
                messages += [(time_s + 0.001, [0x80, pitch, 0]), (time_s + 0.002, [0x90, pitch, 50])]
                time_s += 0.002
        elif kind < 0.9 and down:
            pitch = int(rng.choice(sorted(down)))
            down.discard(pitch)
            messages.append((time_s, [0x80, pitch, 64]))
        else:
            messages.append((time_s, [0xB0, 64, int(rng.integers(128))]))
            messages += [(time_s, odd) for odd in ([0xFE], [0xF8], [60, 64, 64], [0xB0, 67, 127], [0xC0, 5])]
        if rng.random() < 0.4:
            time_s += 0.01
            messages += [(time_s, [0x80, pitch, 0]) for pitch in sorted(down)]
            down = set()
    return messages, TAKEOVERS[seed % 3], HANDBACKS[seed // 3 % 2], 0.1 * (seed // 6 % 2)


def performed(
    messages: list[tuple[float, list[int]]], takeover: Takeover, handback: Handback, lead_s: float, told: Any = None
) -> Stage:
    """The duet, ended two seconds later; ``told`` gets after each message whose turn it is, and the plan's size."""
    stage = Stage(takeover, handback=handback, lead_s=lead_s)
    for time_s, message in messages:
        if not message:
            stage.now_s = time_s
            continue
        stage.until(time_s)
        live.obey(stage.duet, time_s, message)
        if told is not None:
            told.append([stage.duet.playing, len(stage.duet._plan)])
    stage.until(messages[-1][0] + 2)
    stage.duet.close(stage.now_s)
    return stage


def test_what_cannot_be_is_refused() -> None:
    performer = Performer(Reading(PHRASE))
    with one_line("unknown takeover 'nod'", "pedal, silence, key"):
        Duet(performer, print, seed=0, takeover="nod")  # type: ignore[arg-type]
    with one_line("key is 128"):
        Duet(performer, print, seed=0, key=128)
    with one_line("unknown handback 'silence'", "key, pedal"):
        Duet(performer, print, seed=0, handback="silence")  # type: ignore[arg-type]


# ---- ports ----


class Wires:
    """What `rtmidi2` is to a program: ports that come and go, and what was sent to them."""

    def __init__(self) -> None:
        self.inputs, self.outputs = ["Piano 1", "Other"], ["Synth", "Piano 1"]
        self.opened: list[tuple[str, object]] = []
        self.sent: list[tuple[int, ...]] = []
        self.callback: Any = None

    def module(self) -> SimpleNamespace:
        wires = self

        class Port:
            def __init__(self, client: str) -> None:
                self.client = client

            def open_port(self, number: int) -> None:
                wires.opened.append((type(self).__name__, number))

            def open_virtual_port(self, name: str) -> None:
                wires.opened.append((type(self).__name__, name))

            def close_port(self) -> None:
                wires.opened.append((type(self).__name__, "closed"))

        class MidiIn(Port):
            def __setattr__(self, name: str, value: object) -> None:
                if name == "callback":
                    wires.callback = value
                object.__setattr__(self, name, value)

        class MidiOut(Port):
            def send_raw(self, *message: int) -> None:
                wires.sent.append(message)

        return SimpleNamespace(
            MidiIn=MidiIn,
            MidiOut=MidiOut,
            get_in_ports=lambda: list(self.inputs),
            get_out_ports=lambda: list(self.outputs),
        )


@pytest.fixture
def wires(monkeypatch: pytest.MonkeyPatch) -> Wires:
    made = Wires()
    monkeypatch.setitem(sys.modules, "rtmidi2", made.module())
    return made


def test_ports_are_found_by_a_part_of_their_name_and_taken_again_when_they_come_back(wires: Wires) -> None:
    now_s, heard = [0.0], []
    ports = live.Ports("piano", "SYNTH", heard.append, clock=lambda: now_s[0])
    assert wires.opened == [("MidiIn", 0), ("MidiOut", 0)]
    wires.callback([0x90, 60, 64], 0.001)
    assert heard == [(0.0, [0x90, 60, 64])]
    assert ports.look() == []
    wires.outputs.remove("Synth")
    now_s[0] = 1.5
    assert ports.look() == ["SYNTH"]
    ports.send(0x80, 60, 0)
    assert not wires.sent
    now_s[0] = 2.0
    wires.outputs.append("Synth")
    assert ports.look() == []
    ports.send(0x90, 60, 1)
    assert not wires.sent, "looked at once a second"
    now_s[0] = 3.0
    ports.look()
    ports.send(0x90, 60, 1)
    assert wires.sent == [(0xB0, 123, 0), (0x90, 60, 1)], "keys that were down when it was pulled out"
    assert wires.opened[-1] == ("MidiOut", 1)
    with one_line("no MIDI port named 'cello' to listen to", "Piano 1, Other"):
        live.Ports("cello", "Synth", heard.append)


def test_of_all_messages_keys_and_the_pedal_count_on_every_channel() -> None:
    said: list[tuple[object, ...]] = []
    duet = SimpleNamespace(
        **{name: lambda *a, name=name: said.append((name, *a)) for name in ("strike", "release", "pedal")}
    )
    messages = [[0x93, 60, 64], [0x90, 60, 0], [0x85, 61, 9], [0xB1, 64, 64], [0xB0, 64, 63], [0xB0, 67, 127]]
    messages += [[60, 64, 64], [60, 0]]  # what follows a status byte that is left out: drivers put it in
    messages += [[0xFE], [0xF8], [], [0xC0, 5], [0xE0, 0, 64], [0xF0, 1, 2, 0xF7], [0x90, 60], [0xD0, 1]]
    for message in messages:
        live.obey(duet, 1.0, message)  # type: ignore[arg-type]
    assert said == [
        ("strike", 1.0, 60, 64),
        ("release", 1.0, 60),
        ("release", 1.0, 61),
        ("pedal", 1.0, True),
        ("pedal", 1.0, False),
    ]


class Sink:
    def __init__(self) -> None:
        self.messages: list[tuple[int, ...]] = []

    def send(self, *message: int) -> None:
        self.messages.append(message)


def test_a_run_plays_what_its_inbox_holds_and_leaves_no_key_down_when_it_fails() -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sink, now_s = Sink(), [0.0]
    duet = Duet(Performer(Reading(PHRASE)), live.sender(sink), seed=1, takeover="key")
    for message in ([0x90, 60, 64], [0x80, 60, 0], [0x90, 21, 64]):
        inbox.put((0.0, message))

    def stop() -> bool:
        now_s[0] += 0.001
        if now_s[0] > 1.2:
            raise OSError("the cable is out")
        return False

    with pytest.raises(OSError, match="cable"):
        live.run(duet, inbox, sink, stop=stop, clock=lambda: now_s[0], beats_per_minute=100)
    keys = [(0.0, m[1], m[2] if m[0] == 0x90 else 0) for m in sink.messages if m[0] in (0x80, 0x90)]
    assert any(velocity for _, _, velocity in keys)
    assert not still_down(keys)
    assert sink.messages[-2:] == [(0xFC,), (0xB0, 123, 0)]
    assert sink.messages.count((0xFA,)) == 1
    assert sink.messages.index((0xFA,)) < 3, "with the first key"
    assert sum(message == (0xF8,) for message in sink.messages) == pytest.approx(1.2 * 100 / 60 * 24, abs=1)


def test_a_port_that_vanishes_ends_the_turn() -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sink, now_s = Sink(), [0.0]
    duet = Duet(Performer(Reading(PHRASE)), live.sender(sink), seed=1, takeover="key")
    for message in ([0x90, 60, 64], [0x80, 60, 0], [0x90, 21, 64]):
        inbox.put((0.0, message))

    def look() -> list[str]:
        now_s[0] += 0.01
        return ["piano"] if 1.2 < now_s[0] < 1.22 else []

    live.run(duet, inbox, sink, stop=lambda: now_s[0] > 3, look=look, clock=lambda: now_s[0])
    keys = [(0.0, m[1], m[2] if m[0] == 0x90 else 0) for m in sink.messages if m[0] in (0x80, 0x90)]
    assert 0 < max(note.offset for note in duet.notes if note.by_model) < 1.25
    assert not still_down(keys)


WIRED = """
import os, threading, time
sent = os.open(os.environ["SENT"], os.O_WRONLY | os.O_APPEND)
get_in_ports = get_out_ports = lambda: ["piano"]
class Port:
    def __init__(self, name): pass
    def open_port(self, number): pass
    def close_port(self): pass
class MidiOut(Port):
    def send_raw(self, *message): os.write(sent, bytes(message))
class MidiIn(Port):
    def __setattr__(self, name, callback): threading.Thread(target=play, args=(callback,), daemon=True).start()
def play(callback):
    for message in ([0x90, 60, 64], [0x80, 60, 0], [0x90, 21, 64]):
        time.sleep(0.1)
        callback(message, 0.0)
"""


@pytest.mark.skipif(sys.platform == "win32", reason="Windows has no such signals")
@pytest.mark.parametrize("ending", ["SIGINT", "SIGTERM", "SIGHUP"])
def test_a_process_that_is_ended_lets_the_model_s_keys_go(ending: str, tmp_path: Path, model: Path) -> None:
    (tmp_path / "rtmidi2.py").write_text(WIRED)
    sent = tmp_path / "sent"
    sent.touch()
    here = {"PYTHONPATH": f"{tmp_path}{os.pathsep}{os.environ.get('PYTHONPATH', '')}", "SENT": str(sent)}
    options = ["--in", "piano", "--out", "piano", "--takeover", "key", "--engine", "onnx-fp32", "--model", str(model)]
    command = [sys.executable, "-m", "ritornello", "duet", *options]
    process = subprocess.Popen(command, env=os.environ | here, stderr=subprocess.PIPE)
    try:
        end_s = time.monotonic() + 60
        while len(sent.read_bytes()) < 3 * 8:
            assert process.poll() is None, process.stderr.read()
            assert time.monotonic() < end_s
            time.sleep(0.01)
        process.send_signal(getattr(signal, ending))
        assert process.wait(30) == 0
    finally:
        process.kill()
        process.stderr.close()
    content = sent.read_bytes()
    messages = [tuple(content[n : n + 3]) for n in range(0, len(content), 3)]
    assert messages[-1] == (0xB0, 123, 0)
    assert not still_down([(0.0, pitch, velocity * (kind == 0x90)) for kind, pitch, velocity in messages[:-1]])


def test_ten_thousand_messages_at_once_are_all_heard_and_the_first_key_ends_the_turn() -> None:
    inbox: queue.SimpleQueue[Any] = queue.SimpleQueue()
    sink = Sink()
    duet = Duet(Performer(Reading(PHRASE)), live.sender(sink), seed=1, takeover="key")
    for n in range(5000):
        inbox.put((n * 1e-4, [0x90, 30 + n % 60, 1 + n % 127]))
        inbox.put((n * 1e-4 + 5e-5, [0x80, 30 + n % 60, 0]))
    asked = iter([False, False, True])
    live.run(duet, inbox, sink, stop=lambda: next(asked), clock=lambda: 1.0)
    assert len(duet.notes) == 5000
    assert inbox.empty()


def test_the_verb_lists_ports_and_refuses_what_it_cannot_do(command: Any, wires: Wires, tmp_path: Path) -> None:
    done = command("duet")
    assert (done.code, done.out.splitlines()) == (0, ["--in: Piano 1, Other", "--out: Synth, Piano 1"])
    for arguments, words in (
        (("--in", "cello", "--out", "synth"), "no MIDI port named 'cello'"),
        (("--in", "piano", "--out", "synth", "--record", tmp_path / "no" / "a.mid"), "no"),
        (("--in", "piano", "--out", "synth", "--send-clock", "5"), "between 20 and 400"),
    ):
        done = command("duet", *arguments)
        assert done.code == 2
        assert words in done.err
        assert len(done.err.splitlines()) == 1


def test_the_verb_plays_and_records_both_players(command: Any, wires: Wires, tmp_path: Path, model: Path) -> None:
    """A person's key, the key that calls the model, and a tenth of a minute of what follows; each on a track."""
    events = [(0.3, [0x90, 60, 64]), (0.5, [0x80, 60, 0]), (0.7, [0x90, 21, 64])]

    def person() -> None:
        while wires.callback is None:
            time.sleep(0.01)
        began_s = time.monotonic()
        for at_s, message in events:
            time.sleep(max(0.0, began_s + at_s - time.monotonic()))
            wires.callback(message, 0.0)

    player = threading.Thread(target=person)
    player.start()
    out = tmp_path / "duet.mid"
    options = ("--takeover", "key", "--minutes", "0.05", "--seed", 3, "--record", out, "--model", model)
    done = command("duet", "--in", "piano", "--out", "synth", "--engine", "onnx-fp32", *options)
    player.join()
    assert done.code == 0, done.err
    tracks = mido.MidiFile(out).tracks
    struck = [[m.note for m in track if m.type == "note_on" and m.velocity] for track in tracks]
    assert struck[0] == [60]
    played = [m[1] for m in wires.sent if m[0] == 0x90]
    assert struck[1] == played[: len(struck[1])]
    assert len(struck[1]) == len(played) > 0
    assert "1 turn of the model's" in done.err
