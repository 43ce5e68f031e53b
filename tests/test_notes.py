"""Piece: arrays in order, limits kept, the pedal turned into note lengths as one piano with one pedal does it."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.notes import Piece


def rows(piece: Piece) -> list[tuple[float, float, int, int]]:
    columns = (piece.onset.tolist(), piece.offset.tolist(), piece.pitch.tolist(), piece.velocity.tolist())
    return list(zip(*columns, strict=True))


def lengthened(notes, pedals) -> list[tuple[float, float, int, int]]:
    return rows(Piece.from_notes(notes, pedals=pedals).without_pedal())


# ---- a piece is its sorted notes ----


def test_notes_stand_in_order_of_onset_then_pitch_then_offset():
    notes = [(2.0, 3.0, 60, 1), (1.0, 9.0, 61, 2), (1.0, 8.0, 60, 3), (1.0, 7.0, 61, 4), (0.0, 9.0, 99, 5)]
    assert [velocity for *_, velocity in rows(Piece.from_notes(notes))] == [5, 3, 4, 2, 1]


def test_each_value_stays_with_its_note():
    notes = [(3.0, 4.0, 10, 1), (1.0, 9.0, 20, 2), (2.0, 2.5, 30, 3)]
    assert rows(Piece.from_notes(notes)) == sorted(notes)


def test_types_are_float64_seconds_and_single_bytes():
    piece = Piece([0], [1], [60], [64], [[0, 1]])
    types = [array.dtype for array in (piece.onset, piece.offset, piece.pitch, piece.velocity, piece.pedals)]
    assert types == [np.float64, np.float64, np.uint8, np.uint8, np.float64]


def test_what_is_given_is_not_changed():
    onset, pedals = np.array([2.0, 1.0]), np.array([[3.0, 4.0], [0.0, 1.0]])
    Piece(onset, [3.0, 3.0], [60, 62], [64, 64], pedals)
    assert onset.tolist() == [2.0, 1.0]
    assert pedals.tolist() == [[3.0, 4.0], [0.0, 1.0]]


def test_a_piece_without_notes_is_a_piece():
    piece = Piece.from_notes([])
    assert (len(piece), piece.seconds, piece.pedals.shape) == (0, 0.0, (0, 2))
    assert rows(piece.without_pedal()) == []
    assert len(piece.transposed(100).stretched(2.0)) == 0


def test_seconds_last_to_the_latest_release_whatever_the_pedal_does():
    assert Piece.from_notes([(0.0, 5.0, 60, 64), (1.0, 2.0, 62, 64)], pedals=[(4.0, 9.0)]).seconds == 5.0


def test_length_and_title():
    piece = Piece.from_notes([(0.0, 1.0, 60, 64)] * 3, title="Étude")
    assert (len(piece), piece.title) == (3, "Étude")


# ---- limits ----

GOOD = {"onset": 1.0, "offset": 2.0, "pitch": 60, "velocity": 64}


@pytest.mark.parametrize(
    ("name", "value", "limits"),
    [
        ("onset", -0.001, "0 and 1e+06"),
        ("onset", float("nan"), "0 and 1e+06"),
        ("offset", float("inf"), "0 and 1e+06"),
        ("offset", 1_000_001.0, "0 and 1e+06"),
        ("pitch", -1, "0 and 127"),
        ("pitch", 128, "0 and 127"),
        ("velocity", 0, "1 and 127"),
        ("velocity", 128, "1 and 127"),
    ],
)
def test_a_value_outside_its_limits_is_named_with_them(name, value, limits):
    columns = {field: [good, value if field == name else good] for field, good in GOOD.items()}
    with pytest.raises(ValueError, match=name) as caught:
        Piece(**columns)
    assert str(value) in str(caught.value)
    assert limits in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("span", [(-1.0, 2.0), (1.0, float("nan")), (1.0, 2e6)])
def test_a_pedal_outside_the_limits_is_refused(span):
    with pytest.raises(ValueError, match="pedals holds"):
        Piece.from_notes([], pedals=[span])


@pytest.mark.parametrize("value", [0, 127])
def test_the_lowest_and_highest_values_are_allowed(value):
    piece = Piece.from_notes([(0.0, 1_000_000.0, value, max(value, 1))], pedals=[(0.0, 1_000_000.0)])
    assert rows(piece) == [(0.0, 1_000_000.0, value, max(value, 1))]


def test_a_note_that_ends_before_it_begins_is_named():
    with pytest.raises(ValueError, match=r"note 1 ends at 1\.5 s, before its onset at 2\.0 s"):
        Piece([0.0, 2.0], [1.0, 1.5], [60, 60], [64, 64])


def test_arrays_of_different_lengths_are_named():
    with pytest.raises(ValueError, match="2, 1, 1, 1"):
        Piece([0.0, 1.0], [1.0], [60], [64])


# ---- pedal spans ----


@pytest.mark.parametrize(
    ("spans", "merged"),
    [
        ([(3.0, 4.0), (1.0, 2.0)], [[1.0, 2.0], [3.0, 4.0]]),  # sorted
        ([(1.0, 3.0), (2.0, 4.0)], [[1.0, 4.0]]),  # overlapping
        ([(1.0, 9.0), (2.0, 3.0), (4.0, 5.0)], [[1.0, 9.0]]),  # one inside another
        ([(1.0, 9.0), (2.0, 3.0), (8.0, 10.0), (11.0, 12.0)], [[1.0, 10.0], [11.0, 12.0]]),  # a chain
        ([(1.0, 2.0), (2.0, 3.0)], [[1.0, 2.0], [2.0, 3.0]]),  # a lift and a press at one time: the strings are damped
        ([(1.0, 2.0), (1.0, 3.0)], [[1.0, 3.0]]),  # two feet at once
        ([(1.0, 1.0), (5.0, 5.0)], []),  # no time at all
        ([], []),
    ],
)
def test_overlapping_pedal_spans_are_one_and_touching_ones_two(spans, merged):
    assert Piece.from_notes([], pedals=spans).pedals.tolist() == merged


# ---- what the pedal holds ----


@pytest.mark.parametrize(
    ("release", "sounds_until"),
    [
        (0.5, 0.5),  # before the pedal
        (1.0, 2.0),  # just as it goes down: held
        (1.5, 2.0),  # while it is down
        (2.0, 2.0),  # just as it comes up: not held
        (2.5, 2.5),  # after
    ],
)
def test_a_note_let_go_inside_down_and_up_sounds_until_up(release, sounds_until):
    assert lengthened([(0.0, release, 60, 64)], [(1.0, 2.0)]) == [(0.0, sounds_until, 60, 64)]


def test_a_pedal_pressed_before_the_first_note_holds_it():
    assert lengthened([(1.0, 1.5, 60, 64)], [(0.0, 4.0)]) == [(1.0, 4.0, 60, 64)]


def test_a_lift_ends_the_note_even_if_the_pedal_goes_down_at_once():
    assert lengthened([(0.0, 0.5, 60, 64)], [(0.0, 1.0), (1.0, 2.0)]) == [(0.0, 1.0, 60, 64)]
    assert lengthened([(0.0, 1.0, 60, 64)], [(0.0, 1.0), (1.0, 2.0)]) == [(0.0, 2.0, 60, 64)]


def test_a_key_held_through_the_pedal_ends_when_it_is_let_go():
    assert lengthened([(0.0, 5.0, 60, 64)], [(1.0, 2.0), (3.0, 4.0)]) == [(0.0, 5.0, 60, 64)]


def test_a_pedalled_note_ends_at_the_next_strike_of_its_pitch():
    notes = [(0.0, 0.5, 60, 1), (1.0, 1.5, 60, 2), (2.0, 2.5, 61, 3)]
    assert lengthened(notes, [(0.0, 4.0)]) == [(0.0, 1.0, 60, 1), (1.0, 4.0, 60, 2), (2.0, 4.0, 61, 3)]


def test_a_key_struck_while_it_still_sounds_ends_the_earlier_note_without_any_pedal():
    notes = [(0.0, 3.0, 60, 1), (1.0, 2.0, 60, 2), (1.5, 9.0, 61, 3)]
    assert lengthened(notes, []) == [(0.0, 1.0, 60, 1), (1.0, 2.0, 60, 2), (1.5, 9.0, 61, 3)]


def test_notes_struck_at_the_same_time_do_not_end_each_other():
    notes = [(1.0, 2.0, 60, 1), (1.0, 3.0, 60, 2), (2.5, 4.0, 60, 3)]
    assert lengthened(notes, []) == [(1.0, 2.0, 60, 1), (1.0, 2.5, 60, 2), (2.5, 4.0, 60, 3)]


def test_a_note_of_no_length_is_held_by_the_pedal_like_any_other():
    assert lengthened([(1.0, 1.0, 60, 64)], [(0.5, 2.0)]) == [(1.0, 2.0, 60, 64)]
    assert lengthened([(1.0, 1.0, 60, 64)], []) == [(1.0, 1.0, 60, 64)]


def test_without_pedal_keeps_all_but_offsets_and_pedals():
    piece = Piece.from_notes([(1.0, 1.5, 60, 64), (2.0, 2.5, 60, 65)], pedals=[(0.0, 4.0)], title="Étude")
    dry = piece.without_pedal()
    assert (dry.title, dry.pedals.tolist()) == ("Étude", [])
    assert [(a, c, d) for a, _, c, d in rows(dry)] == [(1.0, 60, 64), (2.0, 60, 65)]
    assert piece.offset.tolist() == [1.5, 2.5]
    assert rows(dry.without_pedal()) == rows(dry)


QUARTERS = st.integers(0, 24).map(lambda quarters: quarters / 4)  # coarse, so that times often coincide
SPANS = st.tuples(QUARTERS, QUARTERS).map(sorted)
NOTES = st.tuples(SPANS, st.integers(60, 62), st.integers(1, 127)).map(lambda note: (*note[0], *note[1:]))


def falls_silent(note, notes, pedals) -> float:
    """The docstring's sentences, note by note, by search."""
    onset, until, pitch, _ = note
    now = until
    while any(down <= now < up for down, up in pedals) and now < 99:
        now += 0.25
        if any(up == now for _, up in pedals) and not any(down < now < up for down, up in pedals):
            break  # nobody held the pedal through this moment
    return min([now] + [other[0] for other in notes if other[2] == pitch and other[0] > onset])


@settings(deadline=None, max_examples=300)
@given(st.lists(NOTES, max_size=12), st.lists(SPANS, max_size=6))
def test_sounding_offsets_are_what_a_search_in_quarters_of_a_second_finds(notes, pedals):
    piece = Piece.from_notes(notes, pedals=pedals)
    assert piece.sounding_offset().tolist() == [falls_silent(note, notes, pedals) for note in rows(piece)]


# ---- and back: with a pedal ----


def test_notes_that_end_together_are_let_go_by_a_pedal_and_others_by_their_keys():
    chord = [(0.0, 2.0, 48, 60), (0.5, 2.0, 55, 60), (1.0, 2.0, 64, 60)]
    alone = [(2.5, 3.0, 72, 60)]
    piece = Piece.from_notes([*chord, *alone], title="Étude").with_pedal()
    # The foot follows the first strike by 0.08 s; each key is let go at the next strike, the last one at the lift.
    assert piece.pedals.tolist() == [[0.08, 2.0]]
    assert rows(piece) == [(0.0, 0.5, 48, 60), (0.5, 1.0, 55, 60), (1.0, 2.0, 64, 60), *alone]
    assert piece.title == "Étude"


def test_a_pedal_goes_down_after_the_lift_before_and_not_before_a_note_that_ends_alone():
    first, second = [(0.0, 1.0, 48, 60), (0.2, 1.0, 55, 60)], [(0.9, 2.0, 50, 60), (1.2, 2.0, 57, 60)]
    assert Piece.from_notes(first + second).with_pedal().pedals.tolist() == [[0.08, 1.0], [1.08, 2.0]]
    alone = [(0.1, 1.6, 72, 60)]
    assert Piece.from_notes(second + alone).with_pedal().pedals.tolist() == [[1.6 + 0.08, 2.0]]


def test_a_pedal_goes_down_with_the_first_that_sounds_and_not_for_a_moment():
    long, chord = [(0.0, 5.0, 36, 60)], [(2.0, 3.0, 48, 60), (2.2, 3.0, 55, 60)]
    assert Piece.from_notes(long + chord).with_pedal().pedals.tolist() == [[0.08, 3.0]]
    at_once = [(2.5, 3.17, 60, 60), (2.6, 3.17, 64, 60)]  # 0.09 s after the foot could be down
    assert Piece.from_notes(chord + at_once).with_pedal().pedals.tolist() == [[2.08, 3.0]]


def test_without_notes_that_end_together_there_is_no_pedal():
    notes = [(0.0, 1.0, 48, 60), (0.5, 1.5, 55, 60)]
    assert rows(Piece.from_notes(notes).with_pedal()) == notes
    assert (
        Piece.from_notes(notes).with_pedal().pedals.tolist() == Piece.from_notes([]).with_pedal().pedals.tolist() == []
    )


def test_what_was_played_before_keeps_its_keys_and_its_pedal():
    played = [(0.0, 0.3, 48, 60), (0.5, 0.8, 55, 60), (0.8, 4.0, 64, 60), (0.9, 3.0, 60, 60)]
    new = [(2.0, 4.0, 50, 60), (2.5, 4.0, 57, 60)]
    piece = Piece.from_notes(played + new, pedals=[(0.1, 1.5)]).with_pedal(1.8)
    assert piece.pedals.tolist() == [[0.1, 1.5], [3.08, 4.0]]
    assert rows(piece) == [*played, (2.0, 3.08, 50, 60), (2.5, 4.0, 57, 60)]


@settings(deadline=None, max_examples=300)
@given(st.lists(NOTES, max_size=12), st.lists(SPANS, max_size=6), QUARTERS)
def test_a_pedal_put_in_changes_nothing_that_sounds(notes, pedals, since_s):
    piece = Piece.from_notes(notes, pedals=pedals)
    pedalled = piece.with_pedal(since_s)
    as_heard = [
        sorted(zip(*(each.tolist() for each in (p.onset, p.pitch, p.velocity, p.sounding_offset()))))
        for p in (piece, pedalled)
    ]
    assert as_heard[0] == as_heard[1]
    before = [
        row for row, silent in zip(rows(piece), piece.sounding_offset()) if silent <= since_s and row[0] < since_s
    ]
    assert not set(before) - set(rows(pedalled))


# ---- the same music elsewhere ----

PIECE = Piece.from_notes([(1.0, 2.0, 60, 64), (2.0, 2.5, 72, 65)], pedals=[(0.5, 3.0)], title="Étude")


def test_transposing_moves_every_pitch_and_nothing_else():
    moved = PIECE.transposed(-12)
    assert rows(moved) == [(1.0, 2.0, 48, 64), (2.0, 2.5, 60, 65)]
    assert (moved.pedals.tolist(), moved.title) == ([[0.5, 3.0]], "Étude")


@pytest.mark.parametrize(("semitones", "named"), [(56, "128"), (-61, "-1"), (196, "256")])
def test_transposing_beyond_the_range_is_refused(semitones, named):
    with pytest.raises(ValueError, match=f"pitch holds {named}"):
        PIECE.transposed(semitones)


def test_transposing_reaches_both_ends_of_the_range():
    assert PIECE.transposed(55).pitch.tolist() == [115, 127]
    assert PIECE.transposed(-60).pitch.tolist() == [0, 12]


def test_stretching_multiplies_every_time_and_nothing_else():
    slow = PIECE.stretched(2.0)
    assert rows(slow) == [(2.0, 4.0, 60, 64), (4.0, 5.0, 72, 65)]
    assert (slow.pedals.tolist(), slow.title) == ([[1.0, 6.0]], "Étude")


@pytest.mark.parametrize("factor", [0.0, -1.0, float("nan")])
def test_a_factor_that_is_not_positive_is_refused(factor):
    with pytest.raises(ValueError, match=str(factor)):
        PIECE.stretched(factor)


def test_a_fractional_pitch_and_a_reversed_pedal_span_are_refused() -> None:
    with pytest.raises(ValueError, match=r"pitch holds 60\.7"):
        Piece([0.0], [1.0], [60.7], [64])
    with pytest.raises(ValueError, match=r"pedal span ends at 1\.0 s, before it begins at 3\.0 s"):
        Piece([0.0], [1.0], [60], [64], pedals=[(3, 1)])
