"""Musical features of 50 real performances, beside plain loops over their notes and beside pretty_midi."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pretty_midi
import pytest

from ritornello.metrics.registry import FEATURES, extract
from ritornello.midi import read_midi
from ritornello.notes import Piece

REAL_PIECES, MOST_NOTES = 50, 3_500
LENGTHS = (96, 48, 24, 12, 6, 72, 36, 18, 9, 32, 16, 8)


def feature(name: str, piece: Piece):
    return FEATURES[name].function(piece)


@pytest.fixture(scope="module")
def performances(asap: Path) -> list[tuple[Path, Piece]]:
    found = ((path, read_midi(path)) for path in sorted(asap.glob("**/*.mid"))[::13])
    return list(itertools.islice((pair for pair in found if len(pair[1]) <= MOST_NOTES), REAL_PIECES))


def test_real_pieces_have_the_pitches_onsets_and_velocities_that_pretty_midi_reads(performances):
    assert len(performances) == REAL_PIECES
    for path, piece in performances[::6]:
        notes = [note for part in pretty_midi.PrettyMIDI(str(path)).instruments for note in part.notes]
        notes.sort(key=lambda note: (note.start, note.pitch))
        pitches = [note.pitch for note in notes]
        assert feature("total_used_note", piece) == len(notes), path
        assert feature("NC", piece) == len(set(pitches)), path
        assert feature("PR", piece) == max(pitches) - min(pitches), path
        assert feature("pitch_mean", piece) == pytest.approx(np.mean(pitches)), path
        assert feature("IOI", piece) == pytest.approx(np.diff([note.start for note in notes]).mean(), abs=1e-6), path
        assert feature("velocity_mean", piece) == pytest.approx(np.mean([note.velocity for note in notes])), path


def test_real_pieces_have_the_histograms_that_pretty_midi_computes(performances):
    for path, piece in performances:
        part = pretty_midi.Instrument(0)
        stretched = piece.stretched(1.0123456789)  # no two notes are then 50 ms apart to the last digit
        columns = (stretched.velocity, stretched.pitch, stretched.onset, stretched.offset)
        part.notes = [pretty_midi.Note(int(v), int(p), float(a), float(b)) for v, p, a, b in zip(*columns)]
        by_count = part.get_pitch_class_histogram(use_duration=False, use_velocity=False, normalize=True)
        np.testing.assert_allclose(feature("PCH", piece), by_count, err_msg=str(path))
        roll = part.get_piano_roll(fs=100).sum(axis=1)
        weighed = [roll[pitch_class::12].sum() / roll.sum() for pitch_class in range(12)]
        np.testing.assert_allclose(feature("total_pitch_class_histogram", stretched), weighed, err_msg=str(path))
        adjoining = part.get_pitch_class_transition_matrix()
        np.testing.assert_array_equal(feature("pitch_class_transition_matrix", stretched), adjoining, err_msg=str(path))


def test_real_pieces_have_the_features_that_plain_loops_find(performances):
    for path, piece in performances:
        found = extract(piece, ["perceivers", "playing", "mgeval"])
        for name, expected in looped(piece).items():
            near = 1e-6 if name in ("IOI/seg", "note_density") else 1e-9  # durations are in whole microseconds
            np.testing.assert_allclose(found[name], expected, rtol=near, atol=near, err_msg=f"{path}: {name}")


def looped(piece: Piece) -> dict:
    """Features of a piece, note by note, in exact time where borders matter."""
    onsets, offsets, silences = piece.onset.tolist(), piece.offset.tolist(), piece.sounding_offset().tolist()
    pitches, velocities = piece.pitch.tolist(), piece.velocity.tolist()
    notes = sorted(zip(onsets, pitches, offsets, silences, velocities))
    pairs = list(itertools.pairwise(notes))
    keys, sounds = [class_of(note[2] - note[0]) for note in notes], [class_of(note[3] - note[0]) for note in notes]
    begin, end = min(onsets), max(silences)
    segments = in_segments(notes, begin, end)
    seconds_per_segment = (end - begin) / 64
    loud = sum(velocities) / len(notes)
    return {
        "PC": len({note[1] % 12 for note in notes}),
        "NC": len({note[1] for note in notes}),
        "total_used_pitch": len({note[1] for note in notes}),
        "PCTM": counted([(a[1] % 12, b[1] % 12) for a, b in pairs]) / len(pairs),
        "PR": max(pitches) - min(pitches),
        "pitch_range": max(pitches) - min(pitches),
        "PI": sum(abs(a[1] - b[1]) for a, b in pairs) / len(pairs),
        "avg_pitch_shift": sum(abs(a[1] - b[1]) for a, b in pairs) / len(pairs),
        "IOI": sum(b[0] - a[0] for a, b in pairs) / len(pairs),
        "avg_IOI": sum(b[0] - a[0] for a, b in pairs) / len(pairs),
        "NLH": [sounds.count(i) / len(notes) for i in range(12)],
        "NLTM": counted(itertools.pairwise(sounds)) / len(pairs),
        "note_length_hist": [keys.count(i) / len(notes) for i in range(12)],
        "note_length_transition_matrix": counted(itertools.pairwise(keys)),
        "PC/seg": [len({note[1] % 12 for note in segment}) for segment in segments],
        "NC/seg": [len({note[1] for note in segment}) for segment in segments],
        "PCH/seg": [
            [sum(note[1] % 12 == i for note in segment) / max(len(segment), 1) for i in range(12)]
            for segment in segments
        ],
        "IOI/seg": [
            np.mean([b[0] - a[0] for a, b in itertools.pairwise(segment)]) if len(segment) > 1 else seconds_per_segment
            for segment in segments
        ],
        "pitch_mean": sum(pitches) / len(pitches),
        "pitch_lowest": min(pitches),
        "pitch_highest": max(pitches),
        "velocity_mean": loud,
        "velocity_step": sum(abs(a[4] - b[4]) for a, b in pairs) / len(pairs),
        "velocity_histogram": [
            sum(v in range(4 * i + 1, 4 * i + 5) for v in velocities) / len(notes) for i in range(32)
        ],
        "velocity_spread": (sum((velocity - loud) ** 2 for velocity in velocities) / len(notes)) ** 0.5,
        "note_density": len(notes) / (end - begin),
        "polyphony": looped_polyphony(notes),
        "key_length": sum(note[2] - note[0] for note in notes) / len(notes),
        "sounding_length": sum(note[3] - note[0] for note in notes) / len(notes),
    }


def class_of(length_s: float) -> int:
    of_a_bar = round(length_s * 1e6) * 96  # in units of which 96 bars of 2 s have 96 x 2,000,000
    away = [abs(of_a_bar - length * 2_000_000) for length in LENGTHS]
    return away.index(min(away))


def counted(pairs) -> np.ndarray:
    counts = np.zeros((12, 12))
    for i, j in pairs:
        counts[i, j] += 1
    return counts


def in_segments(notes, begin: float, end: float) -> list[list]:
    segments: list[list] = [[] for _ in range(64)]
    duration_us = round((end - begin) * 1e6)
    for note in notes:
        segments[min(round((note[0] - begin) * 1e6) * 64 // duration_us, 63)].append(note)
    return segments


def looped_polyphony(notes) -> float:
    """How many sound between any two events, over the time at which one does."""
    changes = sorted([(note[0], 1) for note in notes] + [(note[3], -1) for note in notes])
    sounding, total, some = 0, 0.0, 0.0
    for (time, change), (following, _) in itertools.pairwise(changes):
        sounding += change
        total += sounding * (following - time)
        some += (following - time) if sounding else 0
    return total / some
