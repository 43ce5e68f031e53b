"""Repetition and structure: what counts as a repeat, near or far, and which pieces are found to be built of repeats.

Oracles: values worked out by hand, plain loops, and a search over all families of segments.
"""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ritornello.errors import RitornelloError
from ritornello.metrics.registry import extract
from ritornello.metrics.repetition import (
    RepetitionBand,
    RepetitionCurve,
    autocorrelation,
    repetition_band,
    repetition_curve,
    shares_above,
)
from ritornello.metrics.structure import (
    COUNTS,
    DURATIONS_S,
    ONE,
    _highest_fitness,
    _summed_diagonals,
    self_similarity,
    structure_curve,
)
from ritornello.midi import read_midi
from ritornello.notes import Piece

# Autocorrelation.


def test_hand_computed_autocorrelations():
    # 1, 2, 3 about their mean: -1, 0, 1; the sum of squares is 2.
    np.testing.assert_allclose(autocorrelation([1, 2, 3], 4), [1, 0, -1 / 2, 0, 0], atol=1e-12)
    # A loop of two: at lag 2 all but two of the eight products are there.
    np.testing.assert_allclose(autocorrelation([5, 9] * 4, 2), [1, -7 / 8, 6 / 8], atol=1e-12)
    assert autocorrelation([7, 7, 7], 4).tolist() == [1, 1, 1, 0, 0]
    assert autocorrelation([], 2).tolist() == [0, 0, 0]


def test_autocorrelation_is_the_sum_of_products_over_the_sum_of_squares():
    tokens = np.random.default_rng(0).integers(0, 388, 700).astype(np.uint16)
    found = autocorrelation(tokens, 50)
    x = [float(token) - sum(tokens.tolist()) / len(tokens) for token in tokens.tolist()]
    squares = sum(value**2 for value in x)
    for lag in range(51):
        expected = sum(before * after for before, after in zip(x, x[lag:])) / squares
        assert found[lag] == pytest.approx(expected, abs=1e-10)


# Repeats.


def melody(pitches: list[int], *, start: float = 0.0, step: float = 0.25) -> list[tuple[float, float, int, int]]:
    return [(start + i * step, start + (i + 1) * step, pitch, 64) for i, pitch in enumerate(pitches)]


def repetition(piece: Piece) -> tuple[float, float]:
    found = extract(piece, ["near_repetition", "far_repetition"])
    return found["near_repetition"], found["far_repetition"]


PHRASE = [60, 62, 64, 65, 67, 71]


def test_a_phrase_repeats_from_its_fourth_note_on():
    assert repetition(Piece.from_notes(melody(PHRASE))) == (0, 0)
    assert repetition(Piece.from_notes(melody(PHRASE[:3] * 2))) == (0, 0)  # three notes again make no four
    assert repetition(Piece.from_notes(melody(PHRASE) + melody(PHRASE, start=10))) == (3 / 12, 0)
    assert repetition(Piece.from_notes(melody(PHRASE) + melody(PHRASE, start=40))) == (0, 3 / 12)


@pytest.mark.parametrize(("start", "near", "far"), [(30.0, 3, 0), (30.01, 0, 3)])
def test_near_is_up_to_30_seconds(start: float, near: int, far: int) -> None:
    assert repetition(Piece.from_notes(melody(PHRASE) + melody(PHRASE, start=start))) == (near / 12, far / 12)


def test_what_is_repeated_near_and_far_is_near_and_long_rests_are_alike():
    rows = melody(PHRASE) + melody(PHRASE, start=40) + melody(PHRASE, start=50)
    # Far: the phrase at 40 s. Near: the phrase at 50 s, all of it, for it follows itself after a rest as at 40 s.
    assert repetition(Piece.from_notes(rows)) == (6 / 18, 3 / 18)


def test_a_loop_is_near_repetition_but_for_its_first_round():
    piece = Piece.from_notes(melody([60, 64, 67, 64] * 100))
    assert repetition(piece) == ((400 - 4 - 3) / 400, 0)


def test_another_pitch_or_rhythm_is_no_repeat_but_unevenness_and_velocity_do_not_matter():
    first = melody(PHRASE, step=0.3)
    uneven = [(onset + 0.02 * (i % 2), offset, pitch, 90) for i, (onset, offset, pitch, _) in enumerate(first)]
    later = [(onset + 10, offset + 10, pitch, velocity) for onset, offset, pitch, velocity in uneven]
    assert repetition(Piece.from_notes(first + later)) == (3 / 12, 0)
    assert repetition(Piece.from_notes(first + melody(PHRASE, start=10, step=0.4))) == (0, 0)
    assert repetition(Piece.from_notes(first + melody([60, 62, 63, 65, 67, 71], start=10, step=0.3))) == (0, 0)


def test_a_chord_is_read_upwards_however_unevenly_it_is_struck():
    chord = {60: 0.0, 64: 0.02, 67: 0.04}
    turned = {60: 0.049, 64: 0.01, 67: 0.0}
    rows = [
        (bar * 2 + late, bar * 2 + 1.0, pitch, 64)
        for bar, struck in enumerate([chord, turned, chord, turned])
        for pitch, late in struck.items()
    ]
    assert repetition(Piece.from_notes(rows)) == ((12 - 6) / 12, 0)
    rows[3:6] = [(2 + late * 2, 3.0, pitch, 64) for pitch, late in turned.items()]  # 98 ms: no chord any more
    assert repetition(Piece.from_notes(rows))[0] < 6 / 12


def looped_repeats(piece: Piece) -> tuple[list[bool], list[bool], list[int]]:
    """Near, far and when, for each note in order of reading."""
    notes = sorted((round(onset * 1e6), pitch) for onset, pitch in zip(piece.onset.tolist(), piece.pitch.tolist()))
    read: list[tuple[int, int]] = []
    while notes:
        first = notes[0][0]
        chord = [note for note in notes if note[0] < first + 50_000]
        notes = notes[len(chord) :]
        read += sorted((first, pitch) for _, pitch in chord)
    last_heard: dict = {}
    near, far = [], []
    for i, (time, _) in enumerate(read):
        gram = None
        if i >= 3:
            four = read[i - 3 : i + 1]
            steps = [min((b[0] - a[0] + 50_000) // 100_000, 10) for a, b in itertools.pairwise(four)]
            gram = (*(pitch for _, pitch in four), *steps)
        before = last_heard.get(gram) if gram else None
        near.append(before is not None and time - before <= 30_000_000)
        far.append(before is not None and time - before > 30_000_000)
        if gram:
            last_heard[gram] = time
    return near, far, [time for time, _ in read]


ROWS = st.tuples(st.integers(0, 900), st.integers(60, 62))


@settings(deadline=None, max_examples=60)
@given(st.lists(ROWS, max_size=80))
def test_repeats_are_those_that_a_loop_over_all_notes_finds(rows: list[tuple[int, int]]) -> None:
    check_repeats(Piece.from_notes([(onset / 10, onset / 10 + 1, pitch, 64) for onset, pitch in rows]))


def test_repeats_of_real_pieces_are_those_that_a_loop_over_all_notes_finds(asap):
    some = 0.0
    for path in sorted(asap.glob("**/*.mid"))[::107]:
        piece = read_midi(path)
        if len(piece) < 4000:
            check_repeats(piece)
            some += repetition(piece)[0]
    assert some > 0.5


def check_repeats(piece: Piece) -> None:
    near, far, times = looped_repeats(piece)
    assert repetition(piece) == pytest.approx((np.mean(near or [0]), np.mean(far or [0])))
    curve = repetition_curve(piece)
    windows = (times[-1] - times[0]) // 10_000_000 + 1 if times else 0
    assert len(curve.near) == len(curve.far) == windows
    for window in range(windows):
        inside = [i for i, time in enumerate(times) if (time - times[0]) // 10_000_000 == window]
        for found, expected in ((curve.near, near), (curve.far, far)):
            assert found[window] == pytest.approx(np.mean([expected[i] for i in inside] or [0]))


def test_a_loop_leaves_the_band_of_those_who_play_on():
    rng = np.random.default_rng(1)
    players = [
        Piece.from_notes(melody(rng.integers(40, 90, 4 * seconds).tolist())) for seconds in (35, 60, 60, 90, 90, 95)
    ]
    band = repetition_band([repetition_curve(piece) for piece in players])
    assert band.pieces.tolist() == [6, 6, 6, 6, 5, 5]
    assert band.near.shape == band.far.shape == (2, 6)
    assert (band.near[0] <= band.near[1]).all()
    stuck = repetition_curve(Piece.from_notes(melody(rng.integers(40, 90, 80).tolist() + [60, 64, 67, 64] * 40)))
    assert stuck.near[:2] == pytest.approx(band.near[1, :2], abs=0.05)
    assert (stuck.near[3:6] > band.near[1, 3:] + 0.9).all()


def test_the_band_is_made_of_quantiles_window_by_window():
    curves = [repetition_curve(Piece.from_notes(melody([60] * notes, step=1.0))) for notes in (5, 10, 15, 20, 20)]
    shares = [(notes - 4) / notes for notes in (5, 10, 10, 10, 10)]
    np.testing.assert_allclose(repetition_band(curves).near, np.quantile(shares, [0.05, 0.95]).reshape(2, 1))


def test_windows_above_the_band_are_counted_over_all_pieces_as_far_as_the_band_reaches():
    def curve(near: list[float], far: list[float]) -> RepetitionCurve:
        return RepetitionCurve(np.array(near), np.array(far))

    band = RepetitionBand(np.array([[0, 0, 0], [0.2, 0.3, 0.4]]), np.full((2, 3), 0.5), np.array([5, 5, 5]))
    curves = [curve([0.3, 0.3, 0.5, 1, 1], [0, 0.6, 0, 1, 1]), curve([0.2], [0.5])]
    # Of the windows 0, 1, 2 and 0: near in the first and the third, far in the second; equal is not above.
    assert shares_above(curves, band) == (2 / 4, 1 / 4)
    assert shares_above([curve([], [])], band) == (0, 0)


@pytest.mark.parametrize("curves", [[], [Piece.from_notes([])] * 9, [Piece.from_notes(melody(PHRASE))] * 4])
def test_a_band_of_too_few_pieces_is_refused(curves: list[Piece]) -> None:
    with pytest.raises(RitornelloError, match="needs 5 pieces with notes"):
        repetition_band([repetition_curve(piece) for piece in curves])


# Self-similarity.


def test_frames_are_as_alike_as_the_pitch_classes_that_sound_in_them():
    # C from 0 to 4 s, C and E to 8 s, silence to 12 s, E an octave up to 16 s: frames 0-7, 8-15, 16-23, 24-31.
    piece = Piece.from_notes([(1.0, 9.0, 60, 64), (5.0, 9.0, 64, 64), (13.0, 17.0, 76, 64)])
    found = self_similarity(piece)
    assert found.shape == (32, 32)
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(np.diag(found), 1, atol=1e-6)
    mid = [4, 12, 20, 28]  # whose four frames hold nothing else
    expected = [
        [1, 2**-0.5, 12**-0.5, 0],
        [2**-0.5, 1, 6**-0.5, 2**-0.5],
        [12**-0.5, 6**-0.5, 1, 12**-0.5],
        [0, 2**-0.5, 12**-0.5, 1],
    ]
    np.testing.assert_allclose(found[np.ix_(mid, mid)], expected, atol=1e-6)


def test_the_pedal_sounds_on_and_a_part_of_a_frame_counts_as_a_part():
    pedalled = Piece.from_notes([(0.0, 0.5, 60, 64), (0.0, 4.1, 67, 64)], pedals=[(0.2, 4.1)])
    np.testing.assert_allclose(self_similarity(pedalled), 1, atol=1e-6)
    # One frame of C and half a frame of E among the first four, C and E alike in the last four.
    piece = Piece.from_notes([(0.0, 0.5, 60, 64), (1.25, 1.5, 64, 64), (3.0, 6.0, 60, 64), (3.0, 6.0, 64, 64)])
    assert self_similarity(piece)[2, 10] == pytest.approx((1 + 0.5) / (1.25 * 2) ** 0.5)


def test_similarity_at_the_ends_of_a_piece():
    assert self_similarity(Piece.from_notes([])).shape == (0, 0)
    assert self_similarity(Piece.from_notes([(3.0, 3.0, 60, 64)])).shape == (0, 0)
    assert self_similarity(Piece.from_notes([(3.0, 3.01, 60, 64)])).tolist() == [[1.0]]
    hour = Piece.from_notes([(0.0, 3600.0, 60, 64), (2000.0, 2001.0, 61, 64)])
    assert self_similarity(hour).shape == (3600, 3600)


# Structure.


def searched_fitness(weights: np.ndarray, length: int) -> float:
    """The formula of Mueller, Jiang & Grosche for the best of all families, tried one after another."""
    frames, best_of_all = len(weights), 0.0
    for start in range(frames - length + 1):
        alike = [sum(weights[start + k, at + k] for k in range(length)) for at in range(frames - length + 1)]
        best = max(
            (sum(alike[at] for at in family), len(family))
            for size in range(frames // length + 1)
            for family in itertools.combinations(range(frames - length + 1), size)
            if all(b - a >= length for a, b in itertools.pairwise(family))
        )
        score, segments = best
        score, coverage = (score - length) / (segments * length), (segments * length - length) / frames
        if score + coverage > 0:
            best_of_all = max(best_of_all, 2 * score * coverage / (score + coverage))
    return best_of_all


@pytest.mark.parametrize(("frames", "length"), [(12, 3), (13, 4), (11, 2), (9, 5)])
def test_fitness_is_that_of_the_best_family_of_all(frames: int, length: int) -> None:
    rng = np.random.default_rng(frames)
    for _ in range(4):
        weights = np.where(rng.random((frames, frames)) < 0.4, -2.0, rng.integers(0, 1025, (frames, frames)) / 1024)
        weights = np.maximum(weights, weights.T)
        np.fill_diagonal(weights, 1.0)
        along = _summed_diagonals((weights * (ONE // COUNTS)).astype(np.int64) * COUNTS + 1)
        assert _highest_fitness(along, length) == pytest.approx(searched_fitness(weights, length), abs=1e-6)


def theme(rng: np.random.Generator, seconds: int) -> list[int]:
    """A pitch for each quarter of a second; the pitch classes change all the time."""
    return rng.integers(48, 84, 4 * seconds).tolist()


def test_exact_repeats_are_found_at_their_own_length():
    rng = np.random.default_rng(3)
    a, b = theme(rng, 15), theme(rng, 30)
    curve = dict(zip(DURATIONS_S, structure_curve(Piece.from_notes(melody(a + b + a + a)))))
    # Three times 15 of 75 s: alike by 2/3, covered by 2 x 15 / 75; frames at the seams hold something else.
    assert curve[15] == pytest.approx(2 * (2 / 3) * 0.4 / (2 / 3 + 0.4), abs=0.05)
    assert curve[15] == max(curve.values())
    assert curve[42] == curve[60] == 0
    assert max(structure_curve(Piece.from_notes(melody(theme(rng, 75))))[2:]) < 0.1


def test_structure_does_not_depend_on_the_key():
    rng = np.random.default_rng(4)
    a, b = theme(rng, 20), theme(rng, 10)
    piece = Piece.from_notes(melody(a + b + a))
    np.testing.assert_allclose(structure_curve(piece.transposed(5)), structure_curve(piece), atol=1e-3)


def test_a_single_chord_is_like_itself_everywhere():
    chord = Piece.from_notes([(0.0, 240.0, pitch, 64) for pitch in (60, 64, 67)])
    expected = []
    for duration_s in DURATIONS_S:
        segments = 240 // duration_s
        alike, covered = (segments - 1) / segments, (segments - 1) * duration_s / 240
        expected.append(2 * alike * covered / (alike + covered))
    np.testing.assert_allclose(structure_curve(chord), expected, atol=1e-3)


def test_a_piece_shorter_than_two_segments_has_no_structure_at_that_scale():
    short = Piece.from_notes([(0.0, 15.5, 60, 64)])
    assert (structure_curve(short) > 0).tolist() == [duration_s < 8 for duration_s in DURATIONS_S]
    assert structure_curve(Piece.from_notes(melody(PHRASE))).tolist() == [0] * len(DURATIONS_S)
