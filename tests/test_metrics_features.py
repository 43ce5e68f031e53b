"""Musical features: what each one says of hand-made pieces and of pieces with next to nothing.

Here values are worked out by hand; ``test_metrics_asap.py`` has other oracles, on real performances.
"""

from __future__ import annotations

import numpy as np
import pytest
from conftest import one_line
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.metrics.registry import FEATURES, PRESETS, STANDARD, extract, select
from ritornello.notes import Piece

LENGTHS = (96, 48, 24, 12, 6, 72, 36, 18, 9, 32, 16, 8)
SHARES = ("PCH", "PCTM", "NLH", "NLTM", "total_pitch_class_histogram", "note_length_hist", "velocity_histogram")


def feature(name: str, piece: Piece):
    return FEATURES[name].function(piece)


def histogram(**shares: float) -> list[float]:
    """Twelve pitch classes by their names, zero where none is given."""
    names = ("C", "Cis", "D", "Dis", "E", "F", "Fis", "G", "Gis", "A", "Ais", "B")
    return [shares.get(name, 0.0) for name in names]


# C major, struck as a chord and then upwards; the pedal holds the chord until the first E of its own ends it there.
#                      onset, offset, pitch, velocity
BROKEN = Piece.from_notes(
    [
        (1.0, 1.5, 60, 40),
        (1.0, 1.5, 64, 60),
        (1.0, 1.25, 67, 80),
        (2.0, 2.5, 64, 60),
        (3.0, 5.0, 72, 60),
    ],
    pedals=[(1.25, 2.75)],
)
# Sounding: C 1.75 s, E 1.0 s, G 1.75 s (all until pedal-up or the next E), E 0.75 s, C 2.0 s.


def test_pitch_features_of_a_broken_chord():
    assert feature("PC", BROKEN) == 3
    assert feature("NC", BROKEN) == feature("total_used_pitch", BROKEN) == 4
    assert feature("total_used_note", BROKEN) == 5
    assert feature("PCH", BROKEN).tolist() == histogram(C=0.4, E=0.4, G=0.2)
    assert feature("PR", BROKEN) == feature("pitch_range", BROKEN) == 12
    assert feature("pitch_mean", BROKEN) == (60 + 64 + 67 + 64 + 72) / 5
    assert (feature("pitch_lowest", BROKEN), feature("pitch_highest", BROKEN)) == (60, 72)
    assert feature("PI", BROKEN) == feature("avg_pitch_shift", BROKEN) == (4 + 3 + 3 + 8) / 4
    moves = feature("PCTM", BROKEN)
    assert {(i, j): moves[i, j] for i, j in np.argwhere(moves)} == {
        (0, 4): 1 / 4,
        (4, 7): 1 / 4,
        (7, 4): 1 / 4,
        (4, 0): 1 / 4,
    }


def test_duration_features_of_a_broken_chord():
    assert feature("IOI", BROKEN) == feature("avg_IOI", BROKEN) == (0 + 0 + 1 + 1) / 4
    # 1.75 s is 84 of 96: as near to 72 as to 96, which comes first; 1.0 s is 48; 0.75 s is 36; 2.0 s is 96.
    assert feature("NLH", BROKEN).tolist() == [0.6, 0.2, 0, 0, 0, 0, 0.2, 0, 0, 0, 0, 0]
    moves = feature("NLTM", BROKEN)
    assert {(i, j): moves[i, j] for i, j in np.argwhere(moves)} == {
        (0, 1): 1 / 4,
        (1, 0): 1 / 4,
        (0, 6): 1 / 4,
        (6, 0): 1 / 4,
    }
    # Keys are held 0.5 s (24), 0.5 s, 0.25 s (12), 0.5 s and 2.0 s.
    assert feature("note_length_hist", BROKEN).tolist() == [0.2, 0, 0.6, 0.2, 0, 0, 0, 0, 0, 0, 0, 0]
    moves = feature("note_length_transition_matrix", BROKEN)
    assert {(i, j): moves[i, j] for i, j in np.argwhere(moves)} == {(2, 2): 1, (2, 3): 1, (3, 2): 1, (2, 0): 1}


def test_mgevals_pitch_class_features_of_a_broken_chord():
    weights = histogram(C=50 * 40 + 200 * 60, E=50 * 60 + 50 * 60, G=25 * 80)
    np.testing.assert_allclose(feature("total_pitch_class_histogram", BROKEN), np.array(weights) / sum(weights))
    assert not feature("pitch_class_transition_matrix", BROKEN).any()
    # A ends 49 ms before D begins, E 50 ms before, F 49 ms after and B 50 ms after; the short G adjoins itself.
    rows = [(0, 0.951, 69, 9), (0, 0.95, 64, 9), (0.5, 1.049, 65, 9), (0.5, 1.05, 71, 9), (1.0, 3.0, 62, 9)]
    rows.append((9.0, 9.04, 67, 9))
    pairs = feature("pitch_class_transition_matrix", Piece.from_notes(rows))
    assert {(int(i), int(j)): pairs[i, j] for i, j in np.argwhere(pairs)} == {(9, 2): 1, (5, 2): 1, (7, 7): 1}


def test_playing_features_of_a_broken_chord():
    assert feature("velocity_mean", BROKEN) == 60
    assert feature("velocity_spread", BROKEN) == pytest.approx((800 / 5) ** 0.5)
    assert feature("velocity_step", BROKEN) == (20 + 20 + 20 + 0) / 4
    bins = feature("velocity_histogram", BROKEN)  # 37-40 is the tenth bin, 57-60 the fifteenth, 77-80 the twentieth
    assert {int(i): bins[i] for i in np.flatnonzero(bins)} == {9: 1 / 5, 14: 3 / 5, 19: 1 / 5}
    ends = feature("velocity_histogram", Piece.from_notes([(0, 1, 60, 1), (1, 2, 60, 4), (2, 3, 60, 127)]))
    assert (len(ends), ends[0], ends[31]) == (32, 2 / 3, 1 / 3)
    assert feature("note_density", BROKEN) == 5 / 4
    assert feature("key_length", BROKEN) == pytest.approx((0.5 + 0.5 + 0.25 + 0.5 + 2) / 5)
    assert feature("sounding_length", BROKEN) == pytest.approx((1.75 + 1 + 1.75 + 0.75 + 2) / 5)
    assert feature("polyphony", BROKEN) == pytest.approx(7.25 / (1.75 + 2))  # it is silent from 2.75 s to 3 s


def test_segment_features_of_a_broken_chord():
    # From 1 s to 5 s a segment is 1/16 s: the onsets are in segments 0, 16 and 32.
    struck = {0: 3, 16: 1, 32: 1}
    assert {int(i): feature("PC/seg", BROKEN)[i] for i in np.flatnonzero(feature("PC/seg", BROKEN))} == struck
    assert {int(i): feature("NC/seg", BROKEN)[i] for i in np.flatnonzero(feature("NC/seg", BROKEN))} == struck
    shares = feature("PCH/seg", BROKEN)
    assert shares[0].tolist() == histogram(C=1 / 3, E=1 / 3, G=1 / 3)
    assert shares[16].tolist() == histogram(E=1)
    assert shares[32].tolist() == histogram(C=1)
    assert np.count_nonzero(shares.any(axis=1)) == 3
    assert feature("IOI/seg", BROKEN).tolist() == [0.0] + [1 / 16] * 63


def test_an_onset_on_the_border_of_two_segments_belongs_to_the_later_and_octaves_are_one_class():
    rows = [(0.5, 0.6, 60, 9), (0.51, 0.6, 72, 9), (0.53, 0.6, 62, 9), (0.6, 0.7, 60, 9), (0.67, 6.9, 60, 9)]
    piece = Piece.from_notes(rows)  # 6.4 s from 0.5 s on: segments of 0.1 s
    assert feature("PC/seg", piece)[:3].tolist() == [2, 2 - 1, 0]
    assert feature("NC/seg", piece)[:3].tolist() == [3, 1, 0]
    np.testing.assert_allclose(feature("IOI/seg", piece)[:3], [0.015, 0.07, 0.1])


@pytest.mark.parametrize(
    ("length_s", "units"),
    [
        (0.0, 6),
        (0.14, 6),
        (0.15, 8),
        (1.0, 48),
        (1.25, 48),  # 60: between 48 and 72
        (1.75, 96),  # 84: between 72 and 96
        (0.875, 48),  # 42: between 36 and 48
        (0.4375, 24),  # 21: between 18 and 24
        (500.0, 96),
    ],
)
def test_a_length_goes_to_the_nearest_class_and_on_a_tie_to_the_first_of_the_list(length_s: float, units: int) -> None:
    for onset in (0.0, 0.1, 3.3):  # 0.1 + 1.25 - 0.1 is not 1.25
        piece = Piece.from_notes([(onset, onset + length_s, 60, 64)])
        for name in ("NLH", "note_length_hist"):
            assert feature(name, piece).tolist() == [float(length == units) for length in LENGTHS]


# Pieces with next to nothing.

NOTHING = Piece.from_notes([])
ONE = Piece.from_notes([(2.0, 2.5, 61, 50)])
INSTANT = Piece.from_notes([(2.0, 2.0, 61, 50)])
CHORD = Piece.from_notes([(0.0, 3.2, pitch, 50) for pitch in (60, 64, 67)])
ONE_PITCH = Piece.from_notes([(i, i + 0.5, 60, 50) for i in range(64)])


@pytest.mark.parametrize(
    ("name", "of_nothing", "of_one"),
    [
        ("PC", 0, 1),
        ("NC", 0, 1),
        ("total_used_note", 0, 1),
        ("PCH", 0, histogram(Cis=1)),
        ("total_pitch_class_histogram", 0, histogram(Cis=1)),
        ("PCTM", 0, 0),
        ("pitch_class_transition_matrix", 0, 0),
        ("PR", 0, 0),
        ("PI", 0, 0),
        ("IOI", 0, 0.5),
        ("NLH", 0, [0, 0, 1] + [0] * 9),
        ("NLTM", 0, 0),
        ("note_length_transition_matrix", 0, 0),
        ("PC/seg", 0, [1] + [0] * 63),
        ("NC/seg", 0, [1] + [0] * 63),
        ("PCH/seg", 0, [histogram(Cis=1)] + [histogram()] * 63),
        ("IOI/seg", 0, 0.5 / 64),
        ("pitch_mean", 0, 61),
        ("pitch_lowest", 0, 61),
        ("pitch_highest", 0, 61),
        ("velocity_mean", 0, 50),
        ("velocity_step", 0, 0),
        ("velocity_histogram", 0, [float(bin_ == 12) for bin_ in range(32)]),
        ("velocity_spread", 0, 0),
        ("note_density", 0, 2),
        ("polyphony", 0, 1),
        ("key_length", 0, 0.5),
        ("sounding_length", 0, 0.5),
        ("near_repetition", 0, 0),
        ("far_repetition", 0, 0),
        ("structure_curve", 0, 0),
    ],
)
def test_no_note_and_one_note_have_the_values_that_the_docstrings_name(name, of_nothing, of_one):
    np.testing.assert_array_equal(feature(name, NOTHING), np.broadcast_to(of_nothing, np.shape(feature(name, NOTHING))))
    np.testing.assert_array_equal(feature(name, ONE), np.broadcast_to(of_one, np.shape(feature(name, ONE))))


def test_other_pieces_with_next_to_nothing_have_values_too():
    assert feature("note_density", INSTANT) == feature("polyphony", INSTANT) == feature("IOI", INSTANT) == 0
    assert feature("total_pitch_class_histogram", INSTANT).tolist() == [0] * 12
    assert feature("PC/seg", INSTANT).tolist() == [1] + [0] * 63
    assert feature("IOI", CHORD) == 0
    assert feature("IOI/seg", CHORD).tolist() == [0] + [3.2 / 64] * 63
    assert feature("polyphony", CHORD) == pytest.approx(3)
    assert feature("PR", ONE_PITCH) == feature("PI", ONE_PITCH) == feature("velocity_spread", ONE_PITCH) == 0
    assert feature("PCTM", ONE_PITCH)[0, 0] == 1


PITCHES = st.integers(21, 103)
NOTES = st.tuples(st.integers(0, 6000), st.integers(0, 300), PITCHES, st.integers(1, 127))
SPANS = st.tuples(st.integers(0, 6000), st.integers(0, 500))


@st.composite
def pieces(draw: st.DrawFn) -> Piece:
    """Up to 40 notes in steps of 10 ms, with pedals."""
    rows = draw(st.lists(NOTES, max_size=40))
    spans = draw(st.lists(SPANS, max_size=4))
    return Piece.from_notes(
        [(onset / 100, (onset + length) / 100, pitch, velocity) for onset, length, pitch, velocity in rows],
        pedals=[(down / 100, (down + length) / 100) for down, length in spans],
    )


@settings(deadline=None, max_examples=60)
@given(pieces())
def test_every_feature_of_every_piece_is_finite_and_of_one_shape(piece: Piece) -> None:
    for name, value in extract(piece).items():
        assert np.isfinite(value).all(), name
        assert np.min(value) >= 0, name
        assert np.shape(value) == np.shape(feature(name, NOTHING)), name
        assert isinstance(value, float) or value.dtype == np.float64, name


@settings(deadline=None, max_examples=60)
@given(pieces())
def test_shares_sum_to_one_or_to_nothing(piece: Piece) -> None:
    for name in SHARES:
        total = feature(name, piece).sum()
        assert total == pytest.approx(1) or (total == 0 and (len(piece) < 2 or "pitch_class_hist" in name)), name
    silent = feature("NC/seg", piece) == 0
    np.testing.assert_allclose(feature("PCH/seg", piece).sum(axis=1), np.where(silent, 0, 1))


@settings(deadline=None, max_examples=60)
@given(pieces(), st.integers(0, 24), st.integers(0, 1000))
def test_what_a_piece_keeps_when_it_is_moved(piece: Piece, semitones: int, hundredths: int) -> None:
    """Transposed, it keeps its times; later, it keeps everything; half as fast, it keeps what its segments hold."""
    before = extract(piece)
    higher = extract(piece.transposed(semitones))
    shift = hundredths / 100
    later = extract(Piece(piece.onset + shift, piece.offset + shift, piece.pitch, piece.velocity, piece.pedals + shift))
    slower = extract(piece.stretched(2.0))
    turned = {"PCH": (0,), "PCTM": (0, 1), "PCH/seg": (1,), "total_pitch_class_histogram": (0,)}
    turned["pitch_class_transition_matrix"] = (0, 1)
    approximately = {"rtol": 1e-9, "atol": 1e-9}
    for name, value in before.items():
        if name == "structure_curve":
            continue  # compared with a threshold, and tested on its own
        axes = turned.get(name, ())
        expected = np.roll(value, [semitones] * len(axes), axes) if axes else value
        if FEATURES[name].unit == "MIDI pitch" and len(piece):
            expected = value + semitones
        np.testing.assert_allclose(higher[name], expected, err_msg=name, **approximately)
        if name != "total_pitch_class_histogram":  # in frames that stay where they are
            np.testing.assert_allclose(later[name], value, err_msg=name, **approximately)
        if name in ("IOI", "IOI/seg", "key_length", "sounding_length"):
            np.testing.assert_allclose(slower[name], np.multiply(2, value), err_msg=name, **approximately)
        elif name == "note_density":
            np.testing.assert_allclose(slower[name], value / 2, err_msg=name, **approximately)
        elif (
            FEATURES[name].unit in ("pitch classes", "pitches", "MIDI pitch", "semitones", "velocity", "notes")
            or "PC" in name
        ):
            np.testing.assert_allclose(slower[name], value, err_msg=name, **approximately)


# The registry.


def test_the_papers_thirteen_and_mgevals_nine_are_there():
    perceivers = "PC NC PCH PCTM PR PI IOI NLH NLTM PC/seg NC/seg PCH/seg IOI/seg"
    assert [chosen.name for chosen in select(["perceivers"])] == perceivers.split()
    assert len(select(["mgeval"])) == 9
    assert select() == list(FEATURES.values()) == select(PRESETS)
    assert all(found.function.__doc__ for found in select())
    without = {found.name for found in select(["perceivers", "playing", "structure"])} - set(STANDARD)
    assert (len(STANDARD), without) == (26, {"key_length"})


def test_features_are_chosen_by_name_and_preset_each_once():
    assert [chosen.name for chosen in select(["polyphony", "PI", "PI", "PC"])] == ["PC", "PI", "polyphony"]
    assert extract(BROKEN, ["PC", "NC"]) == {"PC": 3.0, "NC": 4.0}
    assert extract(BROKEN, []) == {}
    assert extract(BROKEN, ["perceivers", "PC"]).keys() == extract(BROKEN, ["perceivers"]).keys()


def test_an_unknown_feature_is_refused_in_one_line_that_names_what_there_is():
    with one_line("feature 'PS' is unknown", *FEATURES, *PRESETS):
        extract(BROKEN, ["PC", "PS"])
