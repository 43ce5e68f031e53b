"""The codec on every real performance: nothing lost, nothing doubled, no drift, one encoding, all of it legal.

What is expected comes from mido's messages and one plain loop over them in exact integer time; nothing of it is shared
with the code under test.
"""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path
from typing import NamedTuple

import mido
import numpy as np
import pytest

from ritornello.codec import (
    END,
    SHIFT,
    VELOCITY,
    Grammar,
    StreamDecoder,
    contexts,
    decode,
    encode,
    legal_events,
)
from ritornello.midi import read_midi

CHUNKS = 16  # so that the files can be spread over processes
PERFORMANCES = 1_067
HALF_STEP_S = 0.005 + 1e-9
PRESS, RELEASE, STRIKE, LIFT, TEMPO = range(5)


class Sound(NamedTuple):
    """One note as a listener hears it; times in the file's own exact unit (see `Recording`)."""

    onset: int
    release: int
    pitch: int
    velocity: int


class Recording(NamedTuple):
    """What mido reads in a file. A second has ``units_per_s`` units; ``step`` rounds to 10 ms, halves upward."""

    sounds: list[Sound]
    units_per_s: int

    def step(self, time: int) -> int:
        return (200 * time + self.units_per_s) // (2 * self.units_per_s)


def recording(path: Path) -> Recording:
    file = mido.MidiFile(path, clip=True)
    events, end_tick = [], 0
    for track_number, track in enumerate(file.tracks):
        tick = 0
        for message in track:
            tick += message.time
            move = musical(message, track_number)
            if move:
                events.append((tick, *move))
        end_tick = max(end_tick, tick)
    events.sort(key=lambda event: event[0])
    return Recording(listen(events, end_tick), file.ticks_per_beat * 1_000_000)


def musical(message, track_number: int):
    """(kind, voice, number, value) of a message that matters, else None."""
    kind = message.type
    if kind == "note_on" or kind == "note_off":
        strikes = kind == "note_on" and message.velocity > 0
        voice = (track_number, message.channel)
        return (STRIKE if strikes else RELEASE, voice, message.note, message.velocity) if voice[1] != 9 else None
    if kind == "control_change":
        voice = (track_number, message.channel)
        if message.control == 64 and voice[1] != 9:
            return (PRESS if message.value >= 64 else LIFT, voice, 0, 0)
        return (LIFT, voice, 0, 0) if message.control == 121 else None
    return (TEMPO, None, 0, message.tempo) if kind == "set_tempo" else None


def listen(events, end_tick: int) -> list[Sound]:
    """Plays (tick, kind, voice, number, value) events on one piano; the time unit is a microsecond-tick."""
    played = with_times(events, end_tick)
    # At one time: the pedal moves, then keys are struck, then let go; a strike never ends a note of the same time.
    order = {PRESS: 0, LIFT: 0, STRIKE: 1, RELEASE: 2}
    played.sort(key=lambda event: (event[0], order[event[1]]))
    held_by: set = set()
    ringing: dict[int, list[int]] = defaultdict(list)  # pitch -> notes that sound
    let_go: list[int] = []  # notes that only the pedal holds
    begins: dict[int, tuple[int, int, int]] = {}
    ends: dict[int, int] = {}
    for time, kind, voice, pitch, note, velocity in played:
        if kind == STRIKE:
            for older in ringing[pitch]:
                if begins[older][0] < time:
                    ends.setdefault(older, time)
            ringing[pitch] = [older for older in ringing[pitch] if older not in ends]
            ringing[pitch].append(note)
            begins[note] = (time, pitch, velocity)
        elif kind == RELEASE:
            if held_by:
                let_go.append(note)
            else:
                ends.setdefault(note, time)
        elif kind == PRESS:
            held_by.add(voice)
        elif voice in held_by:
            held_by.remove(voice)
            if not held_by:
                for note in let_go:
                    ends.setdefault(note, time)
                let_go = []
    last = max((event[0] for event in played), default=0)
    return [Sound(time, ends.get(note, last), pitch, velocity) for note, (time, pitch, velocity) in begins.items()]


def with_times(events, end_tick: int):
    """(time, kind, voice, pitch, note, velocity): ticks timed by the tempo map, releases told which note they end."""
    played, down, notes = [], defaultdict(list), 0
    time, before, tempo = 0, 0, 500_000
    for tick, kind, voice, number, value in events:
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
    voices = {voice for _, kind, voice, *_ in events if kind == PRESS}
    return played + [(time, LIFT, voice, 0, -1, 0) for voice in voices]


def one_note_per_key_and_step(recorded: Recording) -> list[list[Sound]]:
    """Strikes of one key within one 10 ms step belong together; groups in order of pitch, then time."""
    groups = defaultdict(list)
    for sound in recorded.sounds:
        groups[sound.pitch, recorded.step(sound.onset)].append(sound)
    return [groups[key] for key in sorted(groups)]


def performances(asap: Path) -> list[Path]:
    return sorted(asap.glob("**/*.mid"))


def check_against_mido(path: Path, tokens: np.ndarray) -> tuple[int, int]:
    """Compares what the tokens tell with what mido hears; gives the number of strikes and of merged ones."""
    recorded = recording(path)
    groups = one_note_per_key_and_step(recorded)
    piece = decode(tokens)
    assert len(piece) == len(groups), f"{path}: {len(groups)} notes were played, {len(piece)} decoded"

    order = np.lexsort((piece.onset, piece.pitch))
    onset, offset = piece.onset[order], piece.offset[order]
    first_s, last_s, release_s = (
        np.array([pick(getattr(sound, field) for sound in group) for group in groups]) / recorded.units_per_s
        for pick, field in ((min, "onset"), (max, "onset"), (max, "release"))
    )
    assert piece.pitch[order].tolist() == [group[0].pitch for group in groups], path
    assert np.abs(onset - first_s).max() <= HALF_STEP_S, path
    assert np.abs(onset - last_s).max() <= HALF_STEP_S, path

    short = release_s < onset + HALF_STEP_S
    lasting = np.rint((offset - onset) * 100)
    np.testing.assert_array_equal(lasting[short], 1, err_msg=str(path))
    assert np.abs(offset - release_s)[~short].max() <= HALF_STEP_S, path

    loudest = np.array([max(sound.velocity for sound in group) for group in groups])
    np.testing.assert_array_equal((piece.velocity[order].astype(int) - 1) // 4, (loudest - 1) // 4, err_msg=str(path))
    return len(recorded.sounds), len(recorded.sounds) - len(groups)


@pytest.mark.parametrize("chunk", range(CHUNKS))
def test_every_performance_survives_as_played_in_one_legal_encoding(asap, chunk):
    strikes = merged = 0
    for path in performances(asap)[chunk::CHUNKS]:
        tokens = encode(read_midi(path))
        assert np.flatnonzero(tokens >= END).tolist() == [len(tokens) - 1], path
        assert tokens[-1] == END, path
        played, lost = check_against_mido(path, tokens)
        strikes, merged = strikes + played, merged + lost
        np.testing.assert_array_equal(encode(decode(tokens)), tokens, err_msg=str(path))
        legal = legal_events(contexts(tokens))[np.arange(len(tokens)), tokens]
        assert legal.all(), f"{path}: token {np.argmin(legal)} is illegal"
    print(strikes, merged)


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
    with (asap / "asap-performances.csv").open(newline="") as file:
        longest = max(csv.DictReader(file), key=lambda row: float(row["duration"]))
    path = asap / longest["midi_filename"]
    recorded = recording(path)
    last_strike_s = max(sound.onset for sound in recorded.sounds) / recorded.units_per_s
    last_release_s = max(sound.release for sound in recorded.sounds) / recorded.units_per_s
    assert last_strike_s > 1_200
    tokens = encode(read_midi(path)).astype(int)
    told_steps = sum(token - SHIFT + 1 for token in tokens.tolist() if SHIFT <= token < VELOCITY)
    assert abs(decode(tokens).onset[-1] - last_strike_s) <= HALF_STEP_S
    assert abs(told_steps / 100 - last_release_s) <= HALF_STEP_S
