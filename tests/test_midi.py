"""MIDI files: nothing that a file holds is lost, times follow the tempo map, bad files get one line."""

from __future__ import annotations

import random
import struct
from collections import defaultdict
from pathlib import Path

import mido
import numpy as np
import pretty_midi
import pytest
from conftest import full_disk, one_line
from hypothesis import given, settings
from hypothesis import strategies as st
from midi_bytes import ONE_NOTE, QUARTER, midi, name, notes, number, off, on, pedal, pedals, tempo, track

from ritornello.errors import RitornelloError
from ritornello.midi import parse_midi, read_midi, write_midi
from ritornello.notes import Piece

# ---- time ----


def test_without_a_tempo_a_quarter_lasts_half_a_second():
    assert notes(midi(track((QUARTER, on(60, 99)), (QUARTER, off(60))))) == [(0.5, 1.0, 60, 99)]


def test_times_follow_the_tempo_map_through_a_held_note():
    # 1 quarter at 0.5 s, 2 at 1 s, then 0.25 s each; the note spans quarters 0.5 to 4
    data = midi(
        track((QUARTER, tempo(1_000_000)), (2 * QUARTER, tempo(250_000))),
        track((QUARTER // 2, on(60)), (QUARTER * 7 // 2, off(60))),
        form=1,
    )
    assert notes(data) == [(0.25, 2.75, 60, 64)]


def test_a_tempo_set_in_any_track_counts_for_all_and_the_last_of_a_tick_wins():
    data = midi(
        track((0, on(60)), (3 * QUARTER, off(60))),
        track((2 * QUARTER, tempo(3_000_000))),
        track((QUARTER, tempo(2_000_000)), (0, tempo(1_000_000))),
        form=1,
    )
    assert notes(data) == [(0.0, 4.5, 60, 64)]


def test_a_tempo_of_zero_leaves_time_as_it_was():
    assert notes(midi(track((0, tempo(0)), (QUARTER, on(60)), (QUARTER, off(60))))) == [(0.5, 1.0, 60, 64)]


def test_ten_hours_in_fine_ticks_keep_their_microseconds():
    # 960 ticks per quarter of 0.6 s: 36,000 s are 57,600,000 ticks; float32 would be off by milliseconds
    data = midi(track((0, tempo(600_000)), (57_600_001, on(60)), (1, off(60))), division=960)
    assert parse_midi(data, "long.mid").onset[0] == pytest.approx(36_000.000625, abs=1e-9)


@pytest.mark.parametrize(
    ("frames", "ticks_per_s"), [(24, 24 * 40), (25, 25 * 40), (29, 30_000 / 1_001 * 40), (30, 30 * 40)]
)
def test_smpte_time_counts_frames_and_ignores_tempo(frames, ticks_per_s):
    data = midi(track((0, tempo(9)), (480, on(60)), (480, off(60))), division=(256 - frames) << 8 | 40)
    piece = parse_midi(data, "film.mid")
    assert piece.onset[0] == pytest.approx(480 / ticks_per_s, abs=1e-12)
    assert piece.offset[0] == pytest.approx(960 / ticks_per_s, abs=1e-12)


def test_patterns_of_format_2_follow_one_another_each_with_its_own_tempo():
    first = track((0, tempo(1_000_000)), (0, on(60)), (QUARTER, off(60)), end=number(QUARTER) + b"\xff\x2f\0")
    second = track((0, on(62)), (0, pedal(127)), (QUARTER, off(62)), (0, pedal(0)))
    data = midi(first, second, form=2)
    assert notes(data) == [(0.0, 1.0, 60, 64), (2.0, 2.5, 62, 64)]
    assert pedals(data) == [[2.0, 2.5]]


# ---- notes ----


def test_a_release_ends_the_oldest_note_of_its_key():
    data = midi(track((0, on(60, 10)), (QUARTER, on(60, 20)), (QUARTER, off(60)), (QUARTER, off(60))))
    assert notes(data) == [(0.0, 1.0, 60, 10), (0.5, 1.5, 60, 20)]


def test_a_strike_of_velocity_0_is_a_release():
    assert notes(midi(track((0, on(60)), (QUARTER, on(60, 0))))) == [(0.0, 0.5, 60, 64)]


def test_a_note_of_no_length_is_kept():
    assert notes(midi(track((QUARTER, on(60)), (0, off(60))))) == [(0.5, 0.5, 60, 64)]


def test_a_note_never_let_go_lasts_to_the_last_note_or_pedal_event():
    later = (QUARTER, b"\xb0\x07\x64"), (QUARTER, b"\xff\x01\0")
    data = midi(track((0, on(60)), (0, on(62)), (QUARTER, off(62)), *later))
    assert notes(data) == [(0.0, 0.5, 60, 64), (0.0, 0.5, 62, 64)]
    data = midi(track((0, on(60)), (0, on(62)), (QUARTER, off(62)), (QUARTER, pedal(0)), *later))
    assert notes(data) == [(0.0, 1.0, 60, 64), (0.0, 0.5, 62, 64)]


def test_a_release_of_a_silent_key_is_nothing():
    data = midi(track((0, off(60)), (0, off(60)), (0, on(60)), (QUARTER, off(60)), (9, off(60)), (0, off(1))))
    assert notes(data) == [(0.0, 0.5, 60, 64)]


def test_running_status_goes_on_through_meta_events():
    data = midi(track((0, on(60)), (0, bytes([62, 70])), (QUARTER, b"\xff\x01\x02hi"), (0, bytes([60, 0]))))
    assert notes(data) == [(0.0, 0.5, 60, 64), (0.0, 0.5, 62, 70)]


def test_running_status_of_one_byte_messages_is_understood():
    changes = [(0, b"\xc0\x01"), (5, b"\x02"), (5, b"\xff\x01\0"), (5, b"\x03"), (5, b"\xd0\x44"), (5, b"\x45")]
    assert notes(midi(track(*changes, (QUARTER - 25, on(60)), (QUARTER, off(60))))) == [(0.5, 1.0, 60, 64)]


def test_system_exclusive_messages_are_stepped_over():
    odd = [(0, b"\xf0\x03\x90\x3c\xf7"), (0, b"\xf7\x02\x90\x3c"), (0, b"\xf8"), (0, b"\xf2\x01\x02")]
    assert notes(midi(track(*odd, (0, on(60)), *odd, (QUARTER, off(60))))) == [(0.0, 0.5, 60, 64)]


def test_tracks_and_channels_become_one_piano_and_drums_stay_out():
    data = midi(
        track((0, on(60)), (QUARTER, off(60))),
        track((0, b"\xc1\x30"), (0, on(60, 50, 1)), (0, on(36, 99, 9)), (240, off(60, 1)), (0, off(36, 9))),
        form=1,
    )
    assert notes(data) == [(0.0, 0.25, 60, 50), (0.0, 0.5, 60, 64)]


def test_only_the_programs_asked_for_are_kept():
    data = midi(
        track((0, on(60)), (0, b"\xc0\x30"), (QUARTER, off(60)), (0, on(62)), (0, b"\xc0\x05"), (0, pedal(127)))
        + track((QUARTER, on(64)), (QUARTER, off(64))),
        form=1,
    )
    data = data[:10] + b"\0\2" + data[12:]
    assert [note[2] for note in notes(data)] == [60, 62, 64]
    assert [note[2] for note in notes(data, keep_programs=range(1))] == []
    assert [note[2] for note in notes(data, keep_programs={0x30})] == [60]
    assert [note[2] for note in notes(data, keep_programs={5})] == [62, 64]
    assert len(parse_midi(data, "song.mid", keep_programs={0x30}).pedals) == 0


def test_what_follows_the_last_track_is_no_music():
    for junk in (b"\0", b"junk", b"XFIH\0\0\0\2ab", b"MTrk\0\0\xff\xff", bytes(100)):
        assert notes(ONE_NOTE + junk) == notes(ONE_NOTE)


def test_a_longer_header_and_alien_chunks_are_stepped_over():
    longer = ONE_NOTE[:4] + struct.pack(">I", 8) + ONE_NOTE[8:14] + b"\0\0" + ONE_NOTE[14:]
    assert notes(longer) == notes(ONE_NOTE)
    assert notes(ONE_NOTE[:14] + b"XFIH\0\0\0\2ab" + ONE_NOTE[14:]) == notes(ONE_NOTE)


def test_a_file_without_notes_is_a_piece_without_notes():
    for data in (midi(), midi(track()), midi(track((0, pedal(127)), (QUARTER, pedal(0))))):
        assert len(parse_midi(data, "silence.mid")) == 0
    assert pedals(midi(track((0, pedal(127)), (QUARTER, pedal(0))))) == [[0.0, 0.5]]


@pytest.mark.parametrize(
    ("text", "title"), [(b"Pr\xc3\xa9lude", "Prélude"), (b"Pr\xe9lude", "Prélude"), (b" two\r\nlines\0", "two lines")]
)
def test_the_title_is_the_first_track_name_on_one_line(text, title):
    data = midi(track((0, name(b"")), (0, name(text))), track((0, name(b"left hand"))), form=1)
    assert parse_midi(data, "song.mid").title == title


# ---- pedal ----


def test_values_of_64_and_more_are_down():
    events = [(0, pedal(63)), (QUARTER, pedal(64)), (QUARTER, pedal(100)), (QUARTER, pedal(63)), (9, pedal(0))]
    assert pedals(midi(track(*events))) == [[0.5, 1.5]]


def test_a_pedal_pressed_before_the_first_note_counts():
    data = midi(track((0, pedal(127)), (QUARTER, on(60)), (10, off(60)), (QUARTER - 10, pedal(0))))
    assert parse_midi(data, "song.mid").sounding_offset().tolist() == [1.0]


def test_a_pedal_never_lifted_holds_to_the_end_of_the_piece():
    data = midi(track((0, on(60)), (10, pedal(127)), (10, off(60)), (0, on(62)), (QUARTER - 20, off(62))))
    piece = parse_midi(data, "song.mid")
    assert pedals(data)[0][1] == 0.5
    assert piece.sounding_offset().tolist() == [0.5, 0.5]


def test_pedals_of_all_tracks_work_on_one_piano_even_without_notes_of_their_own():
    data = midi(
        track((0, on(60)), (QUARTER, off(60))),
        track((0, pedal(127)), (QUARTER, pedal(0))),
        track((240, pedal(127, 3)), (QUARTER, pedal(0, 3)), (QUARTER, pedal(127, 9)), (9, pedal(0, 9))),
        form=1,
    )
    assert pedals(data) == [[0.0, 0.75]]


def test_reset_of_all_controllers_lifts_the_pedal():
    assert pedals(midi(track((0, pedal(127)), (QUARTER, b"\xb0\x79\0"), (QUARTER, on(60)), (1, off(60))))) == [[0, 0.5]]


def test_a_pedal_changed_within_a_tick_lets_go_once():
    data = midi(track((0, pedal(127)), (QUARTER, pedal(0)), (0, pedal(127)), (QUARTER, pedal(0))))
    assert pedals(data) == [[0.0, 0.5], [0.5, 1.0]]


# ---- bad files ----

DAMAGED = {
    "empty": (b"", "empty"),
    "text": (b"These are not the notes", "not a MIDI file"),
    "header only in part": (ONE_NOTE[:9], "cut short"),
    "no track": (ONE_NOTE[:14], "cut short"),
    "track header in part": (ONE_NOTE[:18], "cut short"),
    "track in part": (ONE_NOTE[:-5], "lacks 5 bytes"),
    "one track of two": (midi(track(), track(), form=1)[:-12], "1 of the 2 tracks"),
    "gzip": (b"\x1f\x8b\x08\0\0\0", "compressed, and cut short"),
    "wave": (b"RIFF\x24\0\0\0WAVEfmt ", "not a MIDI file"),
    "format 3": (midi(track(), form=3), "format 3"),
    "header of 5": (ONE_NOTE[:7] + b"\5" + ONE_NOTE[8:], "length 5"),
    "no ticks": (midi(track(), division=0), "division of 0"),
    "no SMPTE ticks": (midi(track(), division=0xE700), "division of 0"),
    "ends inside an event": (midi(track((0, b"\x90\x3c"), end=b"")), "inside an event"),
    "ends inside a text": (midi(track((0, b"\xff\x01\x7fhi"), end=b"")), "inside an event"),
    "first event without status": (midi(track((0, b"\x3c\x40"))), "no status byte"),
    "high velocity": (midi(track((0, b"\x90\x3c\xc0"))), "above 127"),
    "high key": (midi(track((0, b"\x80\x80\x00"))), "above 127"),
    "endless delta time": (midi(track(end=b"\xff\xff\xff\xff\xff\x00\x90\x3c\x40")), "longer than four bytes"),
    "endless number": (midi(track(end=b"\0\xff\x01\xff\xff\xff\xff\xff\x00")), "longer than four bytes"),
    "years long": (midi(track((0, tempo(0xFFFFFF)), (0xFFFFFFF, on(60)), (9, off(60))), division=1), "at most"),
}


@pytest.mark.parametrize("case", DAMAGED)
def test_a_bad_file_gets_one_line_that_names_it(case, tmp_path):
    data, reason = DAMAGED[case]
    path = tmp_path / "song.mid"
    path.write_bytes(data)
    with one_line(f"{path}: ", reason):
        read_midi(path)


def test_a_folder_and_a_missing_file_get_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "none.mid"):
        with pytest.raises(RitornelloError, match=str(path)):
            read_midi(path)


def test_a_file_cut_at_any_byte_is_refused_unless_only_its_end_of_track_is_missing():
    data = midi(
        track((0, name(b"x")), (0, tempo(500_000))),
        track((0, on(60)), (200, bytes([62, 9])), (QUARTER, pedal(127)), (9, off(60)), (0, on(62, 0)), (0, pedal(0))),
        form=1,
    )
    assert len(notes(data)) == 2
    for missing in range(1, 5):
        assert notes(data[:-missing]) == notes(data)
        assert parse_midi(data[:-missing], "cut.mid").mended == (("End of Track cut off", 1),)
    for length in range(len(data) - 4):
        with pytest.raises(RitornelloError):
            parse_midi(data[:length], "cut.mid")


def mutations(data: bytes, count: int, generator: random.Random) -> list[bytes]:
    found = []
    for turn in range(count):
        changed = bytearray(data)
        place = generator.randrange(40 if turn % 4 == 3 else len(changed))
        some = generator.randbytes(generator.randint(1, 9))
        if turn % 4 == 1:
            del changed[place : place + len(some)]
        elif turn % 4 == 2:
            changed[place:place] = some
        else:
            changed[place : place + len(some)] = some
        found.append(bytes(changed))
    return found


def test_a_mutated_file_is_read_or_refused_and_nothing_else():
    generator = random.Random(7)
    events = [(generator.randrange(300), on(generator.randrange(128), generator.randrange(128))) for _ in range(300)]
    data = midi(track((0, name(b"random")), (0, tempo(400_000)), *events, (9, b"\xf0\x02ab"), (0, pedal(90))))
    outcomes = {"read": 0, "refused": 0}
    for changed in mutations(data, 1_500, generator):
        try:
            parse_midi(changed, "x")
            outcomes["read"] += 1
        except RitornelloError:
            outcomes["refused"] += 1
    assert min(outcomes.values()) > 50, outcomes


# ---- an independent reader, event by event ----


def by_mido(path: Path) -> tuple[list[tuple[float, float, int, int]], int]:
    """Notes by first in, first out, and the number of pedal presses, from mido's own merged times."""
    open_notes = defaultdict(list)
    found, presses, now, down = [], 0, 0.0, False
    for message in mido.MidiFile(path):
        now += message.time
        if message.type == "note_on" and message.velocity:
            open_notes[message.channel, message.note].append((now, message.velocity))
        elif message.type in ("note_on", "note_off") and open_notes[message.channel, message.note]:
            begin, velocity = open_notes[message.channel, message.note].pop(0)
            found.append((begin, now, message.note, velocity))
        elif message.type == "control_change" and message.control == 64:
            presses += message.value >= 64 and not down
            down = message.value >= 64
    return found, presses


def test_real_performances_read_as_mido_reads_them(asap):
    for path in sorted(asap.glob("**/*.mid"))[20::150]:
        piece = read_midi(path)
        expected, presses = by_mido(path)
        columns = (piece.onset, piece.offset, piece.pitch, piece.velocity)
        assert len(piece) == len(expected)
        rows = np.array(sorted(expected, key=lambda note: (round(note[0], 6), note[2], note[1])))
        ours = np.array(sorted(zip(*columns, strict=True), key=lambda note: (round(note[0], 6), note[2], note[1])))
        np.testing.assert_allclose(ours, rows, atol=1e-6)
        assert len(piece.pedals) == presses


# ---- writing ----


def rounded(piece: Piece) -> tuple[list[tuple[int, ...]], list[list[int]], str]:
    columns = (np.rint(piece.onset * 1000), np.rint(piece.offset * 1000), piece.pitch, piece.velocity)
    rows = sorted(zip(*(column.astype(int).tolist() for column in columns), strict=True))
    return rows, np.rint(piece.pedals * 1000).astype(int).tolist(), piece.title


def there_and_back(piece: Piece, tmp_path: Path) -> Piece:
    write_midi(piece, tmp_path / "song.mid")
    return read_midi(tmp_path / "song.mid")


PIECE = Piece.from_notes(
    [(0.0, 0.5, 60, 80), (0.5, 0.75, 60, 81), (0.5, 2.0, 64, 1), (1.25, 1.25, 64, 127), (1.0, 1.0, 60, 5)],
    pedals=[(0.25, 1.0), (1.0, 1.5)],
    title="Étude",
)


def test_what_is_written_reads_back_to_the_millisecond(tmp_path):
    assert rounded(there_and_back(PIECE, tmp_path)) == rounded(PIECE)


def test_real_performances_read_back_to_the_millisecond(asap, tmp_path):
    for path in sorted(asap.glob("**/*.mid"))[::100]:
        piece = read_midi(path)
        assert rounded(there_and_back(piece, tmp_path)) == rounded(piece)


MS = st.integers(0, 40)


@settings(deadline=None, max_examples=150)
@given(
    st.lists(st.tuples(MS, st.integers(0, 15), st.sampled_from([60, 61]), st.integers(1, 127)), max_size=14),
    st.lists(st.tuples(MS, st.integers(0, 9)), max_size=5),
)
def test_overlapping_nested_and_empty_notes_read_back(tmp_path_factory, rows, spans):
    notes_s = [(start / 1000, (start + length) / 1000, pitch, velocity) for start, length, pitch, velocity in rows]
    piece = Piece.from_notes(notes_s, pedals=[(down / 1000, (down + held) / 1000) for down, held in spans])
    folder = tmp_path_factory.getbasetemp()
    assert rounded(there_and_back(piece, folder)) == rounded(piece)


def test_mido_finds_one_track_of_one_millisecond_ticks(tmp_path):
    write_midi(PIECE, tmp_path / "song.mid")
    file = mido.MidiFile(tmp_path / "song.mid", clip=False)
    assert (file.type, len(file.tracks), file.ticks_per_beat) == (0, 1, 500)
    messages = list(file.tracks[0])
    assert [message.tempo for message in messages if message.type == "set_tempo"] == [500_000]
    assert messages[-1].type == "end_of_track"
    assert file.length == pytest.approx(2.0)


def test_pretty_midi_finds_the_same_notes(tmp_path):
    lasting = Piece.from_notes(
        [(0.0, 0.5, 60, 80), (0.5, 0.75, 60, 81), (0.25, 2.0, 64, 1), (1.0, 1.5, 64, 127)], pedals=[(0.25, 1.0)]
    )
    write_midi(lasting, tmp_path / "song.mid")
    song = pretty_midi.PrettyMIDI(str(tmp_path / "song.mid"))
    found = sorted((n.start, n.end, n.pitch, n.velocity) for part in song.instruments for n in part.notes)
    expected = sorted(zip(lasting.onset, lasting.offset, lasting.pitch, lasting.velocity, strict=True))
    np.testing.assert_allclose(found, expected, atol=1e-9)
    assert {part.program for part in song.instruments} == {0}
    changes = [(c.time, c.value) for c in song.instruments[0].control_changes if c.number == 64]
    assert changes == [(0.25, 127), (1.0, 0)]


def test_within_a_tick_the_pedal_precedes_releases_and_releases_precede_strikes(tmp_path):
    piece = Piece.from_notes([(0.0, 0.5, 60, 80), (0.5, 0.75, 60, 81)], pedals=[(0.0, 0.5), (0.5, 0.75)])
    write_midi(piece, tmp_path / "song.mid")
    now, order = 0, []
    for message in mido.MidiFile(tmp_path / "song.mid").tracks[0]:
        now += message.time
        if now == 500 and not message.is_meta:
            order.append((message.type, message.value if message.type == "control_change" else 0))
    assert order == [("control_change", 0), ("control_change", 127), ("note_off", 0), ("note_on", 0)]


def test_a_pedal_shorter_than_a_tick_does_not_stick(tmp_path):
    piece = Piece.from_notes([(0.0, 1.0, 60, 64)], pedals=[(0.2001, 0.2003), (0.5, 0.6)])
    assert there_and_back(piece, tmp_path).pedals.tolist() == [[0.5, 0.6]]


def test_a_gap_longer_than_a_midi_delta_can_say_is_written(tmp_path):
    piece = Piece.from_notes([(900_000.0, 900_000.5, 60, 64)])
    assert rounded(there_and_back(piece, tmp_path)) == rounded(piece)
    assert mido.MidiFile(tmp_path / "song.mid").length == pytest.approx(900_000.5)


def test_an_empty_piece_can_be_written(tmp_path):
    assert len(there_and_back(Piece.from_notes([]), tmp_path)) == 0


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    path = tmp_path / "song.mid"
    path.write_bytes(b"old")

    with full_disk(20), pytest.raises(RitornelloError, match="cannot be written"):
        write_midi(PIECE, path)
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_gets_one_line(tmp_path):
    for path in (tmp_path, tmp_path / "none" / "song.mid"):
        with one_line("cannot be written"):
            write_midi(PIECE, path)
