"""The codec by hand-computed cases, then against slow encoders and decoders that follow the sentences one by one."""

from __future__ import annotations

import hashlib
import math

import mido
import numpy as np
import pytest
from events import off, on, shift, velocity
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello import codec
from ritornello.codec import (
    END,
    FINGERPRINT,
    PAD,
    START,
    Note,
    StreamDecoder,
    contexts,
    decode,
    encode,
    legal_events,
    seconds_of,
    steps_of,
)
from ritornello.midi import read_midi
from ritornello.notes import Piece

Row = tuple[float, float, int, int]  # onset s, offset s, pitch, velocity
MF = 371  # velocity bin 15: velocities 61 to 64


def encoded(notes: list[Row], pedals=()) -> list[int]:
    return encode(Piece.from_notes(notes, pedals=pedals)).tolist()


def rows(piece: Piece) -> list[Row]:
    columns = (piece.onset.tolist(), piece.offset.tolist(), piece.pitch.tolist(), piece.velocity.tolist())
    return list(zip(*columns, strict=True))


def streamed(tokens) -> list[Note]:
    decoder = StreamDecoder()
    return [note for token in tokens for note in decoder.feed(token)] + decoder.finish()


def decoded(*tokens: int) -> list[Row]:
    """The notes that tokens tell, read whole and as a stream."""
    notes = rows(decode(tokens))
    assert sorted(tuple(note) for note in streamed(tokens)) == sorted(notes)
    return notes


# ---- the vocabulary ----


def test_the_vocabulary_is_the_design_s_table():
    table = {"NOTE_ON": 0, "NOTE_OFF": 128, "SHIFT": 256, "VELOCITY": 356, "END": 388, "START": 389, "PAD": 390}
    assert {name: getattr(codec, name) for name in table} == table
    assert (codec.N_EVENTS, codec.VOCABULARY_SIZE, codec.STEP_S) == (389, 391, 0.01)


def test_the_fingerprint_is_that_of_the_table_s_text():
    text = "performance/1 on=0 off=128 shift=256x100@100Hz velocity=356x32 end=388 start=389 pad=390 order=off<on,pitch"
    assert hashlib.sha256(text.encode()).hexdigest().startswith(FINGERPRINT)
    assert len(FINGERPRINT) == 16


def test_tokens_stand_at_the_sum_of_the_shifts_so_far():
    tokens = [MF, 60, shift(1), off(60), shift(100), shift(100), 61, END]
    assert steps_of(tokens).tolist() == [0, 0, 1, 1, 101, 201, 201, 201]
    assert seconds_of(np.array(tokens, np.uint16)) == 2.01
    assert (steps_of([]).tolist(), seconds_of([])) == ([], 0.0)


# ---- encoding, by hand ----


def test_one_note_is_velocity_strike_shift_release_end():
    tokens = encode(Piece.from_notes([(0.0, 0.5, 60, 64)]))
    assert tokens.dtype == np.uint16
    assert tokens.tolist() == [371, 60, 305, 188, 388]


def test_a_piece_without_notes_is_the_end():
    assert encoded([]) == [END]
    assert encoded([], pedals=[(1.0, 2.0)]) == [END]


def test_silence_before_the_first_note_is_kept():
    head = [shift(100), shift(100), shift(50), MF, on(60)]
    assert encoded([(2.5, 3.0, 60, 64)]) == [*head, shift(50), off(60), END]


@pytest.mark.parametrize(
    ("gap_s", "shifts"),
    [
        (0.01, [1]),
        (0.99, [99]),
        (1.0, [100]),
        (1.005, [100]),  # the nearest float lies below the edge
        (1.0051, [100, 1]),
        (1.125, [100, 13]),  # just on the edge: upward
        (2.0, [100, 100]),
        (2.5, [100, 100, 50]),
        (7.01, [100] * 7 + [1]),
    ],
)
def test_a_gap_is_full_seconds_first_and_the_rest_last(gap_s, shifts):
    gap = [shift(steps) for steps in shifts]
    assert encoded([(0.0, gap_s, 60, 64)]) == [MF, on(60), *gap, off(60), END]
    assert encoded([(gap_s, gap_s + 1, 60, 64)])[: len(gap) + 2] == [*gap, MF, on(60)]


@pytest.mark.parametrize(
    ("time_s", "step"),
    [
        (0.0, 0),
        (0.00499, 0),
        (0.005, 1),
        (0.015, 2),
        (0.125, 13),  # exact in binary, as the next three: a half goes upward, not to the even step
        (0.375, 38),
        (0.625, 63),
        (9_998.875, 999_888),
        (0.2849, 28),
        (0.2851, 29),
    ],
)
def test_times_are_rounded_to_the_nearest_step_halves_upward(time_s, step):
    assert decoded(*encoded([(time_s, 10_000.0, 60, 64)])) == [(step / 100, 10_000.0, 60, 62)]
    [held, _] = decoded(*encoded([(0.0, time_s, 60, 64), (9_999.0, 10_000.0, 61, 64)]))
    assert held[1] == max(step, 1) / 100


def test_ten_thousand_notes_each_a_third_of_a_step_off_do_not_drift():
    onset = np.arange(10_000) * 0.31 / 3
    tokens = encode(Piece(onset, onset + 0.05, np.full(10_000, 60), np.full(10_000, 64)))
    piece = decode(tokens)
    assert len(piece) == 10_000
    assert np.abs(piece.onset - onset).max() <= 0.005 + 1e-9
    assert seconds_of(tokens) == pytest.approx(9_999 * 0.31 / 3 + 0.05, abs=0.005 + 1e-9)


def test_a_velocity_is_written_only_where_the_bin_changes():
    notes = [(0.0, 9.0, 50, 61), (1.0, 9.0, 51, 64), (2.0, 9.0, 52, 65), (3.0, 9.0, 53, 68), (4.0, 9.0, 54, 61)]
    tokens = encoded(notes)
    assert tokens[:11] == [MF, 50, 355, 51, 355, MF + 1, 52, 355, 53, 355, MF]
    assert sum(token >= 356 for token in tokens) == 3 + 1


def test_the_first_velocity_is_written_whatever_it_is():
    for bin in range(32):
        assert encoded([(0.0, 1.0, 60, 4 * bin + 1)])[0] == velocity(bin)


@pytest.mark.parametrize(
    ("played", "bin"), [(1, 0), (4, 0), (5, 1), (64, 15), (65, 16), (124, 30), (125, 31), (127, 31)]
)
def test_four_velocities_share_a_bin(played, bin):
    assert encoded([(0.0, 1.0, 60, played)])[0] == velocity(bin)


def test_a_decoded_velocity_is_at_most_2_off():
    for played in range(1, 128):
        [(_, _, _, told)] = decoded(*encoded([(0.0, 1.0, 60, played)]))
        assert abs(told - played) <= 2
        assert 1 <= told <= 127


def test_within_a_step_releases_come_before_strikes_each_in_ascending_pitch():
    notes = [(0.0, 1.0, 62, 64), (0.0, 1.0, 60, 64), (1.0, 2.0, 61, 64), (1.0, 2.0, 59, 64)]
    step_0, step_1 = [MF, 60, 62], [off(60), off(62), 59, 61]
    assert encoded(notes) == [*step_0, shift(100), *step_1, shift(100), off(59), off(61), END]


def test_within_a_step_the_order_is_of_pitch_and_not_of_time():
    notes = [(0.0, 0.996, 62, 64), (0.0, 0.999, 60, 64), (0.995, 2.0, 61, 64), (1.004, 2.0, 59, 64)]
    assert encoded(notes)[3:8] == [shift(100), off(60), off(62), 59, 61]


def test_a_velocity_stands_just_before_its_own_strike_in_a_chord():
    notes = [(0.0, 1.0, 60, 64), (0.0, 1.0, 64, 64), (0.0, 1.0, 67, 100), (0.0, 1.0, 72, 64)]
    assert encoded(notes)[:7] == [MF, 60, 64, velocity(24), 67, MF, 72]


# what one key can do


@pytest.mark.parametrize("end", [1.0, 1.003, 1.0049])
def test_a_note_shorter_than_a_step_lasts_one_step(end):
    assert encoded([(1.0, end, 60, 64)]) == [shift(100), MF, on(60), shift(1), off(60), END]


def test_a_short_note_across_an_edge_of_steps_is_as_long_as_the_steps_say():
    assert encoded([(0.004, 0.006, 60, 64)]) == [MF, on(60), shift(1), off(60), END]
    assert encoded([(0.006, 0.024, 60, 64)]) == [shift(1), MF, on(60), shift(1), off(60), END]


def test_a_note_of_no_length_is_let_go_as_its_key_is_struck_in_the_next_step():
    tail = [shift(49), off(60), END]
    assert encoded([(0.0, 0.0, 60, 64), (0.01, 0.5, 60, 64)]) == [MF, 60, shift(1), off(60), 60, *tail]


def test_strikes_of_a_key_at_one_time_are_one_with_the_greatest_velocity_and_the_last_release():
    one = [velocity(22), on(60), shift(100), shift(100), off(60), END]
    assert encoded([(0.0, 1.0, 60, 10), (0.0, 2.0, 60, 90)]) == one
    assert encoded([(0.0, 1.0, 60, 90), (0.0, 2.0, 60, 10)]) == one


def test_strikes_of_a_key_within_one_step_are_one_with_the_greatest_velocity_and_the_last_release():
    one = [shift(100), velocity(22), on(60), shift(100), off(60), END]
    assert encoded([(0.996, 1.0, 60, 90), (1.004, 2.0, 60, 10)]) == one
    assert encoded([(0.996, 9.0, 60, 10), (1.004, 2.0, 60, 90)]) == one  # 9.0: ended by the second strike


def test_strikes_of_two_keys_within_one_step_stay_two():
    assert encoded([(0.996, 2.0, 61, 64), (1.004, 2.0, 60, 64)])[:4] == [shift(100), MF, 60, 61]


def test_a_key_struck_again_ends_its_earlier_note_there():
    again = [shift(50), off(60), on(60)]
    assert encoded([(0.0, 1.5, 60, 64), (0.5, 1.0, 60, 64)]) == [MF, 60, *again, shift(50), off(60), END]


# the pedal


def test_the_pedal_lengthens_the_notes_it_holds_and_is_dropped():
    assert encoded([(0.0, 0.5, 60, 64)], [(0.25, 2.0)]) == encoded([(0.0, 2.0, 60, 64)])


def test_notes_struck_again_under_the_pedal_are_all_there():
    notes = [(0.0, 0.2, 60, 64), (0.5, 0.7, 60, 64), (0.5, 0.6, 64, 64), (1.0, 1.2, 60, 64)]
    twice = [shift(50), off(60), 60, 64, shift(50), off(60), 60]
    assert encoded(notes, [(0.0, 3.0)]) == [MF, 60, *twice, shift(100), shift(100), off(60), off(64), END]


def test_a_note_let_go_as_the_pedal_goes_down_is_held_and_as_it_comes_up_is_not():
    notes = [(0.0, 1.0, 60, 64), (0.0, 2.0, 64, 64), (0.0, 0.99, 67, 64)]
    released = [shift(99), off(67), shift(100), shift(1), off(60), off(64), END]
    assert encoded(notes, [(1.0, 2.0)]) == [MF, 60, 64, 67, *released]


def test_at_a_lift_pedalled_notes_end_and_keys_still_down_do_not():
    notes = [(0.0, 0.5, 60, 64), (0.0, 1.5, 64, 64), (1.0, 1.5, 67, 64)]
    assert encoded(notes, [(0.0, 1.0)]) == [MF, 60, 64, shift(100), off(60), 67, shift(50), off(64), off(67), END]


def performance(path, *messages) -> Piece:
    """Reads what mido writes: (ms since the last message, message name, number, value) rows."""
    track = mido.MidiTrack()
    for ms, name, number, value in messages:
        fields = ("control", "value") if name == "control_change" else ("note", "velocity")
        track.append(mido.Message(name, time=ms, **dict(zip(fields, (number, value), strict=True))))
    mido.MidiFile(tracks=[track], ticks_per_beat=500).save(path)
    return read_midi(path)


def test_a_pedal_pressed_before_the_first_note_loses_nothing(tmp_path):
    piece = performance(
        tmp_path / "early.mid",
        (0, "control_change", 64, 127),
        (1_000, "note_on", 60, 64),
        (100, "note_off", 60, 0),
        (400, "note_on", 64, 64),
        (100, "note_off", 64, 0),
        (400, "control_change", 64, 0),
    )
    assert encode(piece).tolist() == [shift(100), MF, 60, shift(50), 64, shift(50), off(60), off(64), END]


def test_a_pedal_never_lifted_loses_nothing(tmp_path):
    piece = performance(
        tmp_path / "late.mid",
        (0, "note_on", 60, 64),
        (100, "control_change", 64, 127),
        (100, "note_off", 60, 0),
        (300, "note_on", 64, 64),
        (250, "note_off", 64, 0),
    )
    assert encode(piece).tolist() == [MF, 60, shift(50), 64, shift(25), off(60), off(64), END]


# ---- decoding, by hand ----


def test_a_note_goes_from_its_strike_to_its_release():
    assert decoded(shift(100), velocity(0), 60, shift(25), off(60), END) == [(1.0, 1.25, 60, 2)]


def test_the_end_stops_and_nothing_behind_it_counts():
    assert decoded(MF, 60, shift(10), END, shift(10), off(60), 62, END) == [(0.0, 0.1, 60, 62)]
    assert decoded(END, MF, 60, shift(1), off(60)) == []
    assert decoded() == []


def test_releases_of_silent_keys_are_ignored():
    assert decoded(off(60), MF, 60, shift(1), off(61), shift(1), off(60), off(60)) == [(0.0, 0.02, 60, 62)]


def test_notes_still_open_are_closed_at_the_end():
    assert decoded(MF, 60, shift(1), 61, shift(2)) == [(0.0, 0.03, 60, 62), (0.01, 0.03, 61, 62)]
    assert decoded(MF, 60, shift(1), 61, shift(2), END) == [(0.0, 0.03, 60, 62), (0.01, 0.03, 61, 62)]


def test_a_key_struck_again_in_a_later_step_ends_its_earlier_note():
    assert decoded(MF, 60, shift(5), 60, shift(5), off(60)) == [(0.0, 0.05, 60, 62), (0.05, 0.1, 60, 62)]


def test_a_key_struck_twice_in_one_step_is_struck_once_with_the_first_velocity():
    assert decoded(velocity(1), 60, velocity(9), 60, 60, shift(5), off(60)) == [(0.0, 0.05, 60, 6)]


def test_a_key_released_and_struck_in_one_step_is_two_notes():
    assert decoded(MF, 60, shift(5), off(60), 60, shift(5), off(60)) == [(0.0, 0.05, 60, 62), (0.05, 0.1, 60, 62)]


def test_a_strike_before_any_velocity_is_mezzo_forte():
    assert decoded(60, shift(1), off(60)) == [(0.0, 0.01, 60, 62)]


def test_the_latest_velocity_counts():
    assert [row[3] for row in decoded(velocity(0), velocity(31), 60, 61, velocity(3), 62, shift(1))] == [126, 126, 14]


@pytest.mark.parametrize("stranger", [START, PAD, -1, -300, 391, 70_000])
def test_specials_and_unknown_integers_are_ignored(stranger):
    tokens = [MF, 60, shift(5), off(60), END]
    for place in range(len(tokens)):
        assert decoded(*tokens[:place], stranger, *tokens[place:]) == [(0.0, 0.05, 60, 62)]


# ---- decoding as the tokens come ----


def test_a_note_is_given_by_the_token_that_ends_it():
    decoder = StreamDecoder()
    given_by = [decoder.feed(token) for token in (MF, 60, 62, shift(50), off(60), shift(50), 62, END)]
    assert given_by[:4] == [[], [], [], []]
    assert given_by[4] == [Note(onset=0.0, offset=0.5, pitch=60, velocity=62)]
    assert given_by[5:7] == [[], [(0.0, 1.0, 62, 62)]]
    assert given_by[7] == [(1.0, 1.0, 62, 62)]


def test_the_stream_knows_its_time_and_its_end():
    decoder = StreamDecoder()
    assert (decoder.seconds, decoder.ended) == (0.0, False)
    for token in (shift(100), MF, 60, shift(23)):
        decoder.feed(token)
    assert (decoder.seconds, decoder.ended) == (1.23, False)
    decoder.feed(END)
    assert decoder.ended
    assert decoder.feed(shift(5)) == decoder.feed(61) == decoder.finish() == []
    assert decoder.seconds == 1.23


def test_finishing_closes_open_notes_in_ascending_pitch_and_ends_the_stream():
    decoder = StreamDecoder()
    for token in (MF, 62, shift(1), 60, shift(1)):
        decoder.feed(token)
    assert decoder.finish() == [(0.01, 0.02, 60, 62), (0.0, 0.02, 62, 62)]
    assert decoder.ended
    assert decoder.finish() == decoder.feed(off(60)) == []


# ---- made-up pieces, against a slow encoder ----


def silent_at(note: Row, notes: list[Row], pedals: list[list[float]]) -> float:
    """When a note falls silent: held on while a foot is on the pedal, ended by the next strike of its key."""
    onset, end, pitch, _ = note
    held_until = [up for down, up in pedals if down <= end < up]
    while held_until:
        end = max(held_until)
        held_until = [up for down, up in pedals if down < end < up]  # a second foot that was already down
    return min([end] + [again for again, _, key, _ in notes if key == pitch and again > onset])


def slow_encode(notes: list[Row], pedals: list[list[float]]) -> list[int]:
    """Step by step through the piece, key by key through each step."""
    strikes: dict[tuple[int, int], list[int]] = {}  # (step, pitch) -> greatest velocity, last release
    for note in notes:
        step, release = (math.floor(time * 100 + 0.5) for time in (note[0], silent_at(note, notes, pedals)))
        strike = strikes.setdefault((step, note[2]), [0, 0])
        strike[:] = max(strike[0], note[3]), max(strike[1], release, step + 1)

    tokens, waiting, bin = [], 0, None
    sounding: dict[int, int] = {}  # pitch -> step of its release
    step = 0
    while sounding or any(start >= step for start, _ in strikes):
        events = []
        for pitch in range(128):
            if pitch in sounding and (sounding[pitch] == step or (step, pitch) in strikes):
                events.append(128 + pitch)
                del sounding[pitch]
        for pitch in range(128):
            if (step, pitch) in strikes:
                loudness, sounding[pitch] = strikes[step, pitch]
                if (loudness - 1) // 4 != bin:
                    bin = (loudness - 1) // 4
                    events.append(356 + bin)
                events.append(pitch)
        if events:
            while waiting > 100:
                tokens.append(355)
                waiting -= 100
            tokens += [255 + waiting] * (waiting > 0) + events
            waiting = 0
        step, waiting = step + 1, waiting + 1
    return [*tokens, 388]


TIMES = st.one_of(
    st.integers(0, 40).map(lambda number: number / 200),  # on steps and on the edges between them
    st.integers(0, 300).map(lambda number: number / 1_000),
    st.integers(0, 32).map(lambda number: number / 8),
    st.floats(0, 4),
)
SPANS = st.tuples(TIMES, TIMES).map(sorted)
NOTES = st.tuples(SPANS, st.sampled_from([0, 60, 61, 127]), st.integers(1, 127)).map(lambda note: (*note[0], *note[1:]))
PIECES = st.tuples(st.lists(NOTES, max_size=15), st.lists(SPANS, max_size=5))


@settings(deadline=None, max_examples=250)
@given(PIECES)
def test_a_piece_is_encoded_as_a_slow_encoder_does_it(made_up):
    assert encoded(*made_up) == slow_encode(*made_up)


@settings(deadline=None, max_examples=150)
@given(PIECES)
def test_an_encoding_is_legal_and_the_encoding_of_what_it_tells(made_up):
    tokens = encode(Piece.from_notes(made_up[0], pedals=made_up[1]))
    assert legal_events(contexts(tokens))[np.arange(len(tokens)), tokens].all()
    assert encode(decode(tokens)).tolist() == tokens.tolist()


# ---- any tokens, against a slow decoder ----


def slow_decode(tokens: list[int]) -> list[Row]:
    """For each strike, looks back for its velocity and ahead for its end."""
    if END in tokens:
        tokens = tokens[: tokens.index(END)]
    times = [sum(token - 255 for token in tokens[: place + 1] if 256 <= token < 356) for place in range(len(tokens))]
    notes = []
    for place, pitch in enumerate(tokens):
        if not 0 <= pitch < 128:
            continue
        key = (pitch, 128 + pitch)
        before = [i for i in range(place) if tokens[i] in key and times[i] == times[place]]
        if before and tokens[before[-1]] == pitch:
            continue  # already struck in this step
        bins = [token - 356 for token in tokens[:place] if 356 <= token < 388]
        ends = [
            times[i]
            for i in range(place + 1, len(tokens))
            if tokens[i] == 128 + pitch or (tokens[i] == pitch and times[i] > times[place])
        ]
        end = ends[0] if ends else times[-1]
        notes.append((times[place] / 100, end / 100, pitch, 4 * bins[-1] + 2 if bins else 62))
    return sorted(notes)


PITCHES = st.sampled_from([0, 60, 61, 127])
TOKENS = st.lists(
    st.one_of(
        PITCHES.map(on),
        PITCHES.map(off),
        st.sampled_from([1, 2, 100]).map(shift),
        st.integers(0, 31).map(velocity),
        st.integers(-2, 391).filter(lambda token: token != END),
    ),
    max_size=50,
)
MAYBE_END = st.one_of(st.just([]), TOKENS.map(lambda tokens: [END, *tokens]))


@settings(deadline=None, max_examples=300)
@given(TOKENS, MAYBE_END)
def test_any_tokens_decode_as_a_slow_decoder_and_the_stream_tell_them(start, rest):
    tokens = start + rest
    expected = slow_decode(tokens)
    assert sorted(decoded(*tokens)) == expected


@settings(deadline=None, max_examples=150)
@given(TOKENS)
def test_what_any_tokens_tell_can_be_encoded(tokens):
    clean = encode(decode(tokens))
    assert legal_events(contexts(clean))[np.arange(len(clean)), clean].all()
    assert encode(decode(clean)).tolist() == clean.tolist()
