"""The codec on every real performance: nothing lost, nothing doubled, no drift, one encoding, all of it legal.

What is expected comes from mido's messages and one plain loop over them in exact integer time; nothing of it is shared
with the code under test.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import pytest

from ritornello.codec import (
    END,
    SHIFT,
    STEP_S,
    VELOCITY,
    Grammar,
    StreamDecoder,
    contexts,
    decode,
    encode,
    legal_events,
)
from ritornello.midi import read_midi
from ritornello.notes import Piece

CHUNKS = 16  # so that the files can be spread over processes
PERFORMANCES = 1_067
HALF_STEP_S = 0.005 + 1e-9
LONGEST = "Liszt/Sonata/Huang01.mid"  # half an hour
PRESS, RELEASE, STRIKE, LIFT, TEMPO, END_OF_FILE = range(6)


class Sound(NamedTuple):
    """One note as a listener hears it; times in the file's own exact unit, see `Recording`."""

    pitch: int
    onset: int
    release: int
    velocity: int


class Recording(NamedTuple):
    """What mido reads in a file: notes in order of pitch, then onset. A second has ``units_per_s`` units of time."""

    sounds: list[Sound]
    units_per_s: int


def recording(path: Path) -> Recording:
    file = mido.MidiFile(path, clip=True)
    events = []
    for track in file.tracks:
        tick = 0
        for message in track:
            tick += message.time
            move = musical(message)
            if move:
                events.append((tick, *move))
    events.sort(key=lambda event: event[0])
    end_tick = max(tick for tick, kind, *_ in events if kind != TEMPO)
    return Recording(sorted(listen(with_times(events, end_tick))), file.ticks_per_beat * 1_000_000)


def musical(message):
    """(kind, voice, number, value) of a message that matters, else None."""
    kind = message.type
    if kind == "note_on" or kind == "note_off":
        strikes = kind == "note_on" and message.velocity > 0
        voice = message.channel
        return (STRIKE if strikes else RELEASE, voice, message.note, message.velocity) if voice != 9 else None
    if kind == "control_change":
        voice = message.channel
        if message.control == 64 and voice != 9:
            return (PRESS if message.value >= 64 else LIFT, voice, 0, 0)
        return (LIFT, voice, 0, 0) if message.control == 121 else None
    return (TEMPO, None, 0, message.tempo) if kind == "set_tempo" else None


def with_times(events, end_tick: int):
    """(time, kind, voice, pitch, note, velocity): ticks timed by the tempo map, releases told which note they end.

    The unit of time is a microsecond divided by the file's ticks per quarter: all arithmetic is in whole numbers. What
    is still down, keys and pedals, is let go at the last event of keys or pedals.
    """
    played, down, notes = [], defaultdict(list), 0
    time, before, tempo = 0, 0, 500_000
    for tick, kind, voice, number, value in events:
        if tick > end_tick:
            break
        time += (tick - before) * tempo
        before = tick
        if kind == TEMPO:
            tempo = value
        elif kind == STRIKE:
            down[voice, number].append(notes)
            played.append((time, STRIKE, voice, number, notes, value))
            notes += 1
        elif kind == RELEASE:
            if down[voice, number]:
                played.append((time, RELEASE, voice, number, down[voice, number].pop(0), 0))
        else:
            played.append((time, kind, voice, 0, -1, 0))
    time += (end_tick - before) * tempo
    for (voice, pitch), still in down.items():
        played += [(time, RELEASE, voice, pitch, note, 0) for note in still]
    pedals = {voice for _, kind, voice, *_ in events if kind == PRESS}
    return played + [(time, END_OF_FILE, voice, 0, -1, 0) for voice in pedals]


def listen(played) -> list[Sound]:
    """One piano plays: at one time the pedal moves, then keys are struck, then keys are let go, then the file ends."""
    order = {PRESS: 0, LIFT: 0, STRIKE: 1, RELEASE: 2, END_OF_FILE: 3}
    played.sort(key=lambda event: (event[0], order[event[1]]))
    feet: set = set()  # who holds the pedal
    ringing: dict[int, list[int]] = defaultdict(list)  # pitch -> notes that no later strike has ended
    pedalled: list[int] = []  # notes that only the pedal holds
    begins: dict[int, tuple[int, int, int]] = {}
    ends: dict[int, int] = {}
    for time, kind, voice, pitch, note, velocity in played:
        if kind == STRIKE:
            for older in [older for older in ringing[pitch] if begins[older][1] < time]:
                ends.setdefault(older, time)
                ringing[pitch].remove(older)
            ringing[pitch].append(note)
            begins[note] = (pitch, time, velocity)
        elif kind == RELEASE and feet:
            pedalled.append(note)
        elif kind == RELEASE:
            ends.setdefault(note, time)
        elif kind == PRESS:
            feet.add(voice)
        elif voice in feet:
            feet.remove(voice)
            if not feet:
                for held in pedalled:
                    ends.setdefault(held, time)
                pedalled = []
    return [Sound(pitch, time, ends[note], velocity) for note, (pitch, time, velocity) in begins.items()]


def performances(asap: Path) -> list[Path]:
    return sorted(asap.glob("**/*.mid"))


def compare(path: Path, piece: Piece) -> None:
    """Note for note: what was played, as mido tells it, and what was decoded.

    The codec makes one of two strikes of a key within one 10 ms step. In these recordings there is no such pair, so
    every strike must be a decoded note of its own.
    """
    sounds, units_per_s = recording(path)
    assert len(piece) == len(sounds), f"{path}: {len(sounds)} notes were played, {len(piece)} decoded"
    pitch, onset, release, velocity = np.array(sounds, np.float64).reshape(-1, 4).T
    onset_s, release_s = onset / units_per_s, release / units_per_s

    order = np.lexsort((piece.onset, piece.pitch))
    np.testing.assert_array_equal(piece.pitch[order], pitch, err_msg=str(path))
    late_s = piece.onset[order] - onset_s
    assert np.abs(late_s).max() <= HALF_STEP_S, f"{path}: a strike is off by {np.abs(late_s).max()} s"

    lasts_s = piece.offset[order] - piece.onset[order]
    short = release_s < piece.onset[order] + HALF_STEP_S
    np.testing.assert_allclose(lasts_s[short], STEP_S, atol=1e-9, err_msg=str(path))
    late_s = (piece.offset[order] - release_s)[~short]
    assert np.abs(late_s).max() <= HALF_STEP_S, f"{path}: a release is off by {np.abs(late_s).max()} s"

    np.testing.assert_array_equal((piece.velocity[order] - 1) // 4, (velocity - 1) // 4, err_msg=str(path))


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_performance_survives_note_for_note_in_one_legal_encoding(asap, chunk):
    for path in performances(asap)[chunk::CHUNKS]:
        tokens = encode(read_midi(path))
        piece = decode(tokens)
        compare(path, piece)
        for same in (piece, piece.with_pedal()):
            np.testing.assert_array_equal(encode(same), tokens, err_msg=str(path))
        assert np.flatnonzero(tokens >= END).tolist() == [len(tokens) - 1], f"{path}: END stands once, at the end"
        assert tokens[-1] == END, path
        legal = legal_events(contexts(tokens))[np.arange(len(tokens)), tokens]
        assert legal.all(), f"{path}: token {np.argmin(legal)} is illegal"


def test_all_performances_are_there(asap):
    assert len(performances(asap)) == PERFORMANCES


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_a_performance_read_token_by_token_is_legal_and_gives_the_same_notes(asap, chunk):
    path = performances(asap)[chunk::CHUNKS][chunk]
    tokens = encode(read_midi(path))
    grammar, decoder, notes = Grammar(), StreamDecoder(), []
    for place, token in enumerate(tokens.tolist()):
        assert grammar.legal()[token], f"{path}: token {place} is illegal"
        grammar.advance(token)
        notes += decoder.feed(token)
    piece = decode(tokens)
    columns = (piece.onset.tolist(), piece.offset.tolist(), piece.pitch.tolist(), piece.velocity.tolist())
    assert sorted(tuple(note) for note in notes) == sorted(zip(*columns, strict=True))


def test_the_longest_performance_does_not_drift(asap):
    sounds, units_per_s = recording(asap / LONGEST)
    last_strike_s = max(sound.onset for sound in sounds) / units_per_s
    last_release_s = max(sound.release for sound in sounds) / units_per_s
    assert last_strike_s > 1_750
    tokens = encode(read_midi(asap / LONGEST))
    told_steps = sum(token - SHIFT + 1 for token in tokens.tolist() if SHIFT <= token < VELOCITY)
    assert abs(decode(tokens).onset[-1] - last_strike_s) <= HALF_STEP_S
    assert abs(told_steps / 100 - last_release_s) <= HALF_STEP_S
