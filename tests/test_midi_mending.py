"""MIDI files that are not as they should be: what can be read is read right and told, the rest is refused."""

from __future__ import annotations

import gzip
import random
import struct
import time
import tracemalloc
from collections import defaultdict
from itertools import groupby

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from midi_bytes import ONE_NOTE, QUARTER, midi, notes, number, off, on, pedal, pedals, tempo, track

from ritornello.errors import RitornelloError
from ritornello.midi import parse_midi, read_midi
from ritornello.midi.reading import MAX_BYTES
from ritornello.notes import Piece

END = b"\xff\x2f\0"


def told(data: bytes) -> dict[str, int]:
    return dict(parse_midi(data, "song.mid").mended)


# ---- small files that failed: their bytes, and what is right ----

HEADER = bytes.fromhex("4d546864 00000006 0000 0001 01e0")
ONE = [(0.0, 0.5, 60, 64)]
MELODY = [(n and 60, bytes([0x90, 60 + n % 12, 80]), bytes([0x80, 60 + n % 12, 64])) for n in range(40)]
FORTY = [event for delta, strike, release in MELODY for event in ((delta, strike), (60, release))]
FORTY_NOTES = [(n / 8, n / 8 + 0.0625, 60 + n % 12, 80) for n in range(40)]
LATE = number(0x0FFFFFFF)
TWENTY = b"".join(b"\0\x90%c\x50\x92\x60\x80%c\x40" % (60 + n, 60 + n) for n in range(20))
RELEASED = [(768, bytes([0x90, 60, 80])), (192, bytes([0x80, 60, 64]))]

SMALL = {
    "release in another track": (
        bytes.fromhex(
            "4d546864 00000006 0001 0002 01e0 4d54726b 00000008 00903c40 00ff2f00"
            "4d54726b 00000013 8360803c00 8f00904040 8360804000 00ff2f00"
        ),
        [(0.0, 0.5, 60, 64), (2.5, 3.0, 64, 64)],
        {},
    ),
    "events behind an End of Track": (
        bytes.fromhex("4d546864 00000006 0000 0001 01e0 4d54726b 00000011 00ff2f00 00903c40 8360803c00 00ff2f00"),
        ONE,
        {"tracks continued behind an End of Track": 1},
    ),
    "a tempo behind an End of Track": (
        bytes.fromhex(
            "4d546864 00000006 0001 0002 01e0 4d54726b 00000017 00ff510307a120 00ff2f00 8360ff51030f4240 00ff2f00"
            "4d54726b 00000017 00903c40 8360803c00 8f00904040 8360804000 00ff2f00"
        ),
        [(0.0, 0.5, 60, 64), (4.5, 5.5, 64, 64)],
        {"tracks continued behind an End of Track": 1},
    ),
    "two files in one": (ONE_NOTE + ONE_NOTE, ONE, {"bytes of another file behind this one, left out": 35}),
    "a controller's value of 128": (
        HEADER + bytes.fromhex("4d54726b 00000011 00b00780 00903c40 8360803c00 00ff2f00"),
        ONE,
        {"data bytes above 127, clipped or left out": 1},
    ),
    "program 255": (
        HEADER + bytes.fromhex("4d54726b 00000010 00c0ff 00903c40 8360803c00 00ff2f00"),
        ONE,
        {"data bytes above 127, clipped or left out": 1},
    ),
    "a release velocity of 128": (
        HEADER + bytes.fromhex("4d54726b 0000000d 00903c40 8360803c80 00ff2f00"),
        ONE,
        {"data bytes above 127, clipped or left out": 1},
    ),
    "a header that says 14": (HEADER[:7] + b"\x0e" + ONE_NOTE[8:], ONE, {"header of a wrong length": 1}),
    "junk between tracks": (
        bytes.fromhex(
            "4d546864 00000006 0001 0002 01e0 4d54726b 0000000b 00ff510307a120 00ff2f00 850000"
            "4d54726b 0000000d 00903c50 8360803c40 00ff2f00"
        ),
        [(0.0, 0.5, 60, 80)],
        {"bytes outside of chunks, left out": 3},
    ),
    "wrapped": (b"RIFF\x2f\0\0\0RMIDdata\x23\0\0\0" + ONE_NOTE, ONE, {}),
    "a track's length left at 0": (
        bytes.fromhex("4d546864 00000006 0000 0001 0fa0 4d54726b 00000000 00ff510305f370") + TWENTY,
        [(n * 0.234, (n + 1) * 0.234, 60 + n, 80) for n in range(20)],
        {"tracks of a wrong length": 1},
    ),
    "the last byte missing": (
        HEADER
        + bytes.fromhex(
            "4d54726b 00000026 00ff510307a120 00ff03054574756465 00903c50 8360803c40 00904050 8360804040 00ff2f"
        ),
        [(0.0, 0.5, 60, 80), (0.5, 1.0, 64, 80)],
        {"End of Track cut off": 1},
    ),
    "a tempo of two bytes": (
        HEADER + bytes.fromhex("4d54726b 00000013 00ff510207a1 00903c50 8740803c40 00ff2f00"),
        [(0.0, 1.0, 60, 80)],
        {"tempo events without a tempo, left out": 1},
    ),
    "an End of Track after 20 days": (
        midi(track((0, tempo(500_000)), *FORTY, end=(LATE + b"\xff\x01\0") * 4 + LATE + END)),
        FORTY_NOTES,
        {},
    ),
    "all notes off instead of a release": (
        HEADER + bytes.fromhex("4d54726b 00000017 00903c40 8360b07b00 8f00904040 8360804000 00ff2f00"),
        [(0.0, 0.5, 60, 64), (2.5, 3.0, 64, 64)],
        {},
    ),
    "the first release lost": (
        midi(
            track(
                *[(0, tempo(500_000)), (0, bytes([0x90, 60, 80])), (192, b"\xff\x01\0")],
                *(RELEASED * 59 + [(0, b"\xff\x01\0")]),
            )
        ),
        [(0.0, 1.0, 60, 80)] + [(float(n), n + 0.2, 60, 80) for n in range(1, 60)],
        {"notes without a release": 1},
    ),
    "a release lost before the key is repeated": (
        HEADER + bytes.fromhex("4d54726b 0000001c 00903c40 8360903c40 8360803c00 8f00903c40 8360803c00 00ff2f00"),
        [(0.0, 0.5, 60, 64), (0.5, 1.0, 60, 64), (3.0, 3.5, 60, 64)],
        {"notes without a release": 1},
    ),
}


@pytest.mark.parametrize("case", SMALL)
def test_a_small_file_that_failed_is_read_right(case):
    data, expected, mended = SMALL[case]
    assert notes(data) == [(round(start, 9), round(end, 9), *rest) for start, end, *rest in expected]
    assert told(data) == mended


def test_a_pedal_pressed_in_one_track_is_lifted_in_another():
    data = bytes.fromhex(
        "4d546864 00000006 0001 0002 01e0 4d54726b 00000008 00b0407f 00ff2f00"
        "4d54726b 0000001b 00903c40 8360803c00 00b04000 8f00904040 8360804000 00ff2f00"
    )
    assert pedals(data) == [[0.0, 0.5]]
    assert told(data) == {}


def test_a_pedal_that_hangs_for_half_an_hour_ends_with_the_music():
    late = track((0, tempo(500_000)), (1_728_000, tempo(400_000)))
    data = midi(late, track((0, pedal(127)), *FORTY), form=1)
    assert notes(data) == [(round(a, 9), round(b, 9), *rest) for a, b, *rest in FORTY_NOTES]
    assert parse_midi(data, "song.mid").sounding_offset().max() <= 4.94
    assert told(data) == {"pedals never lifted": 1}


def test_all_notes_off_leaves_to_the_pedal_what_it_holds():
    data = HEADER + bytes.fromhex(
        "4d54726b 00000026 00ff510307a120 00b0407f 00903c50 00904050 8360b07b00 8740904350 8360804340 00ff2f00"
    )
    assert [note[:3] for note in notes(data)] == [(0.0, 0.5, 60), (0.0, 0.5, 64), (1.5, 2.0, 67)]
    assert parse_midi(data, "song.mid").sounding_offset().tolist() == [2.0, 2.0, 2.0]


def test_info_tells_what_was_mended(command, tmp_path):
    (tmp_path / "song.mid").write_bytes(SMALL["the first release lost"][0])
    assert command("info", tmp_path / "song.mid", "--json").figures["mended"] == {"notes without a release": 1}
    assert "notes without a release 1" in command("info", tmp_path / "song.mid").out
    (tmp_path / "song.mid").write_bytes(ONE_NOTE)
    assert command("info", tmp_path / "song.mid", "--json").figures["mended"] == {}


# ---- channels ----

KEYS = [60, 61]
SOUND_OFF, RESET, NOTES_OFF = 120, 121, 123


def controller(which: int, channel: int) -> bytes:
    return bytes([0xB0 | channel, which, 0])


MESSAGES = st.one_of(
    st.builds(on, st.sampled_from(KEYS), st.integers(0, 2), st.integers(0, 1)),
    st.builds(off, st.sampled_from(KEYS), st.integers(0, 1)),
    st.builds(pedal, st.sampled_from([0, 63, 64, 127]), st.integers(0, 1)),
    st.builds(controller, st.sampled_from([SOUND_OFF, RESET, NOTES_OFF]), st.integers(0, 1)),
    st.builds(tempo, st.sampled_from([250_000, 500_000])),
    st.builds(lambda channel, program: bytes([0xC0 | channel, program]), st.integers(0, 1), st.integers(0, 1)),
)


def apart(events: list[tuple[int, int, bytes]]) -> list[bytes]:
    """Tracks of (track, tick, message) in order of ticks."""
    tracks = []
    for which in range(4):
        now, mine = 0, []
        for _, tick, message in (event for event in events if event[0] == which):
            mine.append((tick - now, message))
            now = tick
        tracks.append(track(*mine))
    return tracks


@settings(deadline=None, max_examples=300)
@given(st.lists(st.tuples(st.integers(0, 3), st.integers(1, 9), MESSAGES), max_size=40), st.booleans())
def test_a_song_split_over_tracks_reads_as_one_track(moves, some_programs):
    tick, events = 0, []
    for which, delta, message in moves:
        tick += delta
        events.append((which, tick, message))
    whole = midi(track(*((delta, message) for _, delta, message in moves)), division=500)
    split = midi(*apart(events), form=1, division=500)
    options = {"keep_programs": {1}} if some_programs else {}
    assert notes(split, **options) == notes(whole, **options)
    assert pedals(split) == pedals(whole)
    assert told(split) == told(whole)


def test_at_one_tick_tracks_count_in_the_file_s_order():
    pressed, lifted = track((QUARTER, pedal(127))), track((QUARTER, pedal(0)))
    music = track((0, on(60)), (2 * QUARTER, off(60)))
    assert pedals(midi(lifted, pressed, music, form=1)) == [[0.5, 1.0]]
    assert pedals(midi(pressed, lifted, music, form=1)) == []


def test_patterns_of_format_2_share_no_channel():
    first = track((0, on(60)), (0, pedal(127)), (QUARTER, on(62)), (QUARTER, off(62)), (0, b"\xc0\x30"))
    second = track((QUARTER, off(60)), (0, pedal(0)), (0, on(64)), (QUARTER, off(64)))
    data = midi(first, second, form=2)
    assert notes(data) == [(0.0, 1.0, 60, 64), (0.5, 1.0, 62, 64), (1.5, 2.0, 64, 64)]
    assert pedals(data) == [[0.0, 1.0]]
    assert notes(data, keep_programs={0}) == notes(data)


# ---- keys and pedals, against brute force ----


def by_force(events: list[tuple[int, bytes]]) -> tuple[list[tuple[int, int, int]], list[tuple[int, int]]]:
    """(strike, end, pitch) of notes and (down, up) of spans of one channel, in ticks, event by event.

    Releases are brackets that close strikes, so a stack tells which strikes have lost theirs; the others and the
    releases are then paired in order.
    """
    music = [tick for tick, message in events if message[0] >> 4 != 0xB or message[1] in (64, RESET)]
    end_tick = max(music, default=0)
    found = []
    for key in KEYS:
        section: list[tuple[int, bool]] = []
        for tick, message in [*events, (end_tick, controller(NOTES_OFF, 0))]:
            if message[0] >> 4 == 0xB and message[1] in (SOUND_OFF, NOTES_OFF):
                found += [(start, end, key) for start, end in paired_by_force(section, tick)]
                section = []
            elif message[0] >> 4 in (8, 9) and message[1] == key:
                section.append((tick, message[0] >> 4 == 9 and message[2] > 0))
    spans, since = [], None
    for tick, message in events:
        if message[0] >> 4 != 0xB:
            continue
        down = message[1] == 64 and message[2] >= 64
        if message[1] == SOUND_OFF and since is not None:
            spans.append((min(since, tick), tick))
            since = tick + 1
        elif message[1] == 64 and down:
            since = tick if since is None else since
        elif message[1] in (64, RESET) and since is not None:
            spans.append((min(since, tick), tick))
            since = None
    if since is not None:
        spans.append((min(since, end_tick), end_tick))
    return sorted(found), spans


def paired_by_force(section: list[tuple[int, bool]], close: int) -> list[tuple[int, int]]:
    struck = [tick for tick, is_strike in section if is_strike]
    open_strikes: list[int] = []  # places in `struck`
    closed: set[int] = set()
    releases: list[int] = []
    place = 0
    for tick, events in groupby(section, key=lambda event: event[0]):
        older = len(open_strikes)
        for _, is_strike in events:
            if is_strike:
                open_strikes.append(place)
                place += 1
            elif older:
                older -= 1
                closed.add(open_strikes.pop(older))
                releases.append(tick)
            elif open_strikes:
                closed.add(open_strikes.pop())
                releases.append(tick)
    ends = dict(zip(sorted(closed), releases, strict=True))
    following = [*struck[1:], close]
    return [(tick, ends.get(place, following[place])) for place, tick in enumerate(struck)]


@settings(deadline=None, max_examples=500)
@given(st.lists(st.tuples(st.integers(0, 2), MESSAGES), max_size=40))
def test_keys_and_pedals_move_as_event_by_event(moves):
    tick, events = 0, []
    moves = [(delta, bytes([message[0] & 0xF0, *message[1:]])) for delta, message in moves if message[0] < 0xC0]
    for delta, message in moves:
        tick += delta
        events.append((tick, message))
    data = midi(track(*moves), division=500)
    expected, spans = by_force(events)
    found = [(round(start * 1000), round(end * 1000), pitch) for start, end, pitch, _ in notes(data)]
    assert sorted(found) == expected
    clean = Piece.from_notes([], pedals=[(down / 1000, up / 1000) for down, up in spans])
    assert pedals(data) == clean.pedals.round(9).tolist()


@settings(deadline=None, max_examples=300)
@given(
    st.lists(st.tuples(st.sampled_from(KEYS), st.integers(1, 9), st.integers(0, 9)), min_size=1, max_size=20), st.data()
)
def test_one_lost_release_costs_one_note(rows, data):
    """Also where a key is struck again in the very tick of its release, and even before it in the file."""
    events, lasts, now = [], {}, defaultdict(int)
    for note, (pitch, length, gap) in enumerate(rows):
        start = now[pitch] + gap
        now[pitch] = start + length
        events += [(start, 0, note, on(pitch)), (start + length, 1, note, off(pitch))]
        lasts[pitch] = note
    events.sort(key=lambda event: event[:3])
    lost = data.draw(st.integers(0, len(rows) - 1))

    def read(chosen):
        ticks = [0, *(event[0] for event in chosen)]
        moves = [(tick - before, event[3]) for before, tick, event in zip(ticks, ticks[1:], chosen)]
        return notes(midi(track(*moves), division=500))

    whole = read(events)
    damaged = read([event for event in events if event[1:3] != (1, lost)])
    assert len(damaged) == len(whole) == len(rows)
    changed = [(old, new) for old, new in zip(whole, damaged) if old != new]
    assert len(changed) <= 1
    for old, new in changed:
        again = [note[0] for note in whole if note[2] == old[2] and note[0] > old[0]]
        assert new[0] == old[0]
        assert new[1] == (again[0] if again else max(note[1] for note in damaged)) or not again


def test_all_sound_off_ends_also_what_the_pedal_holds_and_leaves_the_pedal_down():
    events = [
        (0, pedal(127)),
        (0, on(60)),
        (10, off(60)),
        (QUARTER, controller(SOUND_OFF, 0)),
        (10, on(62)),
        (10, off(62)),
    ]
    piece = parse_midi(midi(track(*events, (QUARTER, pedal(0)))), "song.mid")
    tick = 0.5 / QUARTER
    assert piece.sounding_offset() == pytest.approx([490 * tick, 990 * tick])


def test_the_sostenuto_pedal_is_told_and_drums_are():
    events = [(0, on(60)), (0, b"\xb0\x42\x7f"), (9, off(60)), (9, b"\xb0\x42\0"), (0, on(36, 9, 9)), (0, off(36, 9))]
    assert told(midi(track(*events))) == {"notes of drums, left out": 1, "presses of the sostenuto pedal, left out": 1}


# ---- chunks ----


def with_length(data: bytes, place: int, length: int) -> bytes:
    return data[: place + 4] + struct.pack(">I", length) + data[place + 8 :]


@pytest.mark.parametrize("end", [b"", b"\0" + END])
def test_a_track_of_any_wrong_length_is_read_whole_or_refused(end):
    body = bytes.fromhex("00ff510305f370") + TWENTY + end
    data = bytes.fromhex("4d546864 00000006 0000 0001 0fa0 4d54726b 00000000") + body
    outcomes = {"read": 0, "refused": 0}
    for length in [*range(len(body) + 9), 2**16, 2**32 - 1]:
        try:
            piece = parse_midi(with_length(data, 14, length), "song.mid")
        except RitornelloError:
            outcomes["refused"] += 1
            continue
        assert len(piece) == 20
        assert bool(piece.mended) == (length != len(body))
        outcomes["read"] += 1
    assert outcomes["read"] >= len(body)


def test_wrong_lengths_of_one_track_leave_the_others_whole():
    tracks = [track((0, on(60 + n)), (QUARTER, off(60 + n)), (0, bytes([70 + n, 0]))) for n in range(3)]
    data = midi(*tracks, form=1)
    for which in range(3):
        place = 14 + which * len(tracks[0])
        for length in range(len(data)):
            try:
                found = notes(with_length(data, place, length))
            except RitornelloError:
                continue
            assert found == notes(data), (which, length)


@settings(deadline=None, max_examples=100)
@given(st.binary(max_size=30).filter(lambda junk: b"MT" not in junk), st.booleans())
def test_junk_between_tracks_costs_no_track(junk, behind_header):
    head, first, second = midi(track(), track(), form=1)[:14], track((0, tempo(250_000))), ONE_NOTE[14:]
    data = head + (junk + first if behind_header else first + junk) + second
    if not junk[:4].isalnum():  # else it may be a chunk, as long as it says
        assert notes(data) == [(0.0, 0.25, 60, 64)]


@given(st.integers(7, 2**32 - 1))
def test_a_header_of_any_length_is_read_or_refused(length):
    data = with_length(ONE_NOTE, 0, length)
    assert notes(data) == ONE
    assert told(data) == {"header of a wrong length": 1}


def test_junk_behind_an_end_of_track_is_left_out_and_told():
    for junk in (b"\0\x3c\x40", b"\0\x90\x3c", b"junk", b"\xff" * 9):
        data = midi(track((0, on(60)), (QUARTER, off(60)), end=b"\0" + END + junk))
        assert notes(data) == ONE
        assert told(data) == {"bytes behind an End of Track, left out": len(junk)}
    assert told(midi(track((0, on(60)), (QUARTER, off(60)), end=b"\0" + END + bytes(99)))) == {}


def test_an_end_of_track_may_be_cut_off_a_track_that_goes_on_behind_one():
    data = midi(track((0, on(60)), end=b"\0" + END + number(QUARTER) + off(60) + b"\0" + END))
    for missing in range(5):
        assert notes(data[: len(data) - missing]) == ONE
    with pytest.raises(RitornelloError, match="track 1 lacks 5 bytes"):
        notes(data[:-5])


@pytest.mark.parametrize("odd", [b"", b"LIST\x04\0\0\0INFO", b"DISP\x03\0\0\0abc\0"])
def test_a_riff_file_may_hold_other_things_too(odd):
    inside = odd + b"data" + struct.pack("<I", len(ONE_NOTE)) + ONE_NOTE + b"\0"
    data = b"RIFF" + struct.pack("<I", 4 + len(inside)) + b"RMID" + inside
    assert notes(data) == ONE
    assert notes(gzip.compress(data)) == ONE
    assert notes(gzip.compress(ONE_NOTE)) == ONE


def test_a_compressed_file_cut_anywhere_is_refused():
    data = gzip.compress(ONE_NOTE)
    for length in range(len(data)):
        with pytest.raises(RitornelloError):
            notes(data[:length])


@pytest.mark.parametrize("division", [0xD890, 0x8001, 0xE128, 0xFFFF])
def test_an_smpte_rate_that_does_not_exist_is_a_number_of_ticks(division):
    data = midi(track((0, on(60)), (division, off(60))), division=division)
    assert notes(data) == ONE
    assert told(data) == {"SMPTE rate that does not exist, taken as ticks per quarter note": 1}


def test_delta_times_of_any_length_are_understood():
    for delta in (0, 127, 128, 16_383, 16_384, 2_097_151, 2_097_152, 0x0FFFFFFF):
        data = midi(
            track((delta, on(60)), (delta, bytes([60, 0])), (delta, bytes([62, 1])), (1, off(62))), division=32_767
        )
        ticks = [round(note[0] * 2 * 32_767) for note in notes(data)]
        assert ticks == [delta, 3 * delta]


# ---- sizes ----


def test_a_file_larger_than_the_limit_is_refused_as_such(tmp_path):
    path = tmp_path / "song.mid"
    with path.open("wb") as file:
        file.write(ONE_NOTE)
        file.truncate(2**40)
    bomb = gzip.compress(ONE_NOTE + bytes(MAX_BYTES))
    (tmp_path / "bomb.mid.gz").write_bytes(bomb)
    for path in tmp_path.iterdir():
        with pytest.raises(RitornelloError, match=f"{path.name}: larger than .* MiB"):
            read_midi(path)


def to_the_end(count: int, less: int) -> bytes:
    """Each of ``count`` tracks says that it goes to the end of the file, or that many bytes less far."""
    size = len(track((0, on(60)), (0, off(60))))
    lengths = ((count - number) * size - 8 - less for number in range(count))
    return midi(*(with_length(track((0, on(60)), (0, off(60))), 0, length) for length in lengths), form=1)


ENDLESS = {
    "tracks": midi(*[track()] * 65_535, form=1),
    "patterns": midi(*[track((0, on(60)))] * 50_000, form=2),
    "texts": midi(track(*[(0, b"\xff\x01\0")] * 200_000)),
    "ends": midi(track(*[(0, END)] * 200_000)),
    "programs": midi(track((0, b"\xc0\1"), *[(0, b"\1")] * 400_000)),
    "strikes": midi(track((0, on(60)), *[(0, bytes([60, 1]))] * 260_000)),
    "strikes and releases": midi(
        track((0, on(60)), *([(0, bytes([60, 1]))] * 130_000 + [(1, bytes([60, 0]))] * 130_000))
    ),
    "silences": midi(track(*[(1, on(60)), (0, controller(NOTES_OFF, 0))] * 100_000)),
    "tempos": midi(track(*[(1, tempo(500_000))] * 110_000)),
    "alternating": midi(track(*[(0, b"\xd0\1"), (0, on(60)), (0, off(60))] * 70_000)),
    "tracks to the end": to_the_end(40_000, 0),
    "tracks nearly to the end": to_the_end(40_000, 1),
    "tracks beyond the end": to_the_end(40_000, -1),
    "wrong lengths": midi(*[with_length(track((0, on(60)), (0, off(60))), 0, 0)] * 40_000, form=1),
}


@pytest.mark.parametrize("case", ENDLESS)
def test_a_hostile_file_costs_time_and_memory_by_its_size(case):
    """Of 0.8 MB each: a few seconds on a slow machine, where a cost per track or by pairs would be minutes."""
    data = ENDLESS[case]
    assert 7e5 < len(data) < 1.3e6
    start = time.process_time()
    parse_midi(data, "hostile.mid", keep_programs={0, 1})
    assert time.process_time() - start < 10
    tracemalloc.start()
    parse_midi(data, "hostile.mid")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150e6, f"{peak / len(data):.0f} bytes of memory for each of the file's"


def test_a_missing_end_of_track_changes_nothing_wherever_the_leaps_end():
    generator = random.Random(5)
    messages = [on(60), off(60), on(61), pedal(90), pedal(0), b"\xff\x01\2hi", b"\xc0\3"]
    for count in range(1, 40):
        events = [(generator.choice([0, 3, 200, 20_000]), generator.choice(messages)) for _ in range(count)]
        data = midi(track(*events), track(*reversed(events)), track((1, on(62)), (5, off(62))), form=1)
        endless = midi(
            track(*events, end=b""), track(*reversed(events), end=b""), track((1, on(62)), (5, off(62))), form=1
        )
        assert (notes(endless), pedals(endless)) == (notes(data), pedals(data))
