"""Every feature by its name: what it is called, which preset it belongs to, in which unit, and the function behind it.

Presets: ``perceivers`` (the thirteen of arXiv 2411.08307, in the paper's words), ``playing`` and ``structure`` (what it
leaves out), ``mgeval`` (the nine whole-piece features of that program, as it computes them, under its names).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError
from ritornello.metrics import durations, expression, pitches, repetition, segments, structure
from ritornello.notes import Piece

Value = float | NDArray[np.float64]


class Feature(NamedTuple):
    """One musical feature; ``function`` holds its definition."""

    name: str
    preset: str
    unit: str  # of its entries
    about: str  # in plain words
    function: Callable[[Piece], Value]


_ALL = [
    Feature("PC", "perceivers", "pitch classes", "different pitch classes", pitches.pitch_classes_used),
    Feature("NC", "perceivers", "pitches", "different pitches", pitches.pitches_used),
    Feature("PCH", "perceivers", "share", "how often each pitch class is struck", pitches.pitch_class_histogram),
    Feature("PCTM", "perceivers", "share", "which pitch class follows which", pitches.pitch_class_transitions),
    Feature("PR", "perceivers", "semitones", "from the lowest pitch to the highest", pitches.pitch_range),
    Feature("PI", "perceivers", "semitones", "how far apart consecutive notes are", pitches.pitch_interval),
    Feature("IOI", "perceivers", "s", "time from a note to the next", durations.inter_onset_interval),
    Feature("NLH", "perceivers", "share", "how long notes last", durations.note_length_histogram),
    Feature("NLTM", "perceivers", "share", "which note length follows which", durations.note_length_transitions),
    Feature(
        "PC/seg", "perceivers", "pitch classes", "different pitch classes in a 64th", segments.pitch_classes_per_segment
    ),
    Feature("NC/seg", "perceivers", "pitches", "different pitches in a 64th", segments.pitches_per_segment),
    Feature("PCH/seg", "perceivers", "share", "pitch classes struck in a 64th", segments.pitch_class_histograms),
    Feature("IOI/seg", "perceivers", "s", "time to the next note in a 64th", segments.inter_onset_intervals),
    Feature("pitch_mean", "playing", "MIDI pitch", "register: the mean pitch", pitches.pitch_mean),
    Feature("pitch_lowest", "playing", "MIDI pitch", "the lowest pitch", pitches.pitch_lowest),
    Feature("pitch_highest", "playing", "MIDI pitch", "the highest pitch", pitches.pitch_highest),
    Feature("velocity_mean", "playing", "velocity", "how loud it is on the whole", expression.velocity_mean),
    Feature("velocity_spread", "playing", "velocity", "how much loudness varies", expression.velocity_spread),
    Feature("velocity_step", "playing", "velocity", "loudness from note to note", expression.velocity_step),
    Feature("velocity_histogram", "playing", "share", "how often each loudness occurs", expression.velocity_histogram),
    Feature("note_density", "playing", "notes/s", "notes per second", expression.note_density),
    Feature("polyphony", "playing", "notes", "notes that sound together", expression.polyphony),
    Feature("key_length", "playing", "s", "how long keys are held", expression.key_length),
    Feature("sounding_length", "playing", "s", "how long notes sound, by key and pedal", expression.sounding_length),
    Feature("near_repetition", "structure", "share", "notes that repeat the last 30 s", repetition.near_repetition),
    Feature("far_repetition", "structure", "share", "notes that repeat what is longer ago", repetition.far_repetition),
    Feature("structure_curve", "structure", "fitness", "what its best segment explains", structure.structure_curve),
    Feature("total_used_pitch", "mgeval", "pitches", "different pitches", pitches.pitches_used),
    Feature("total_used_note", "mgeval", "notes", "notes", pitches.notes_struck),
    Feature(
        "total_pitch_class_histogram",
        "mgeval",
        "share",
        "pitch classes, by velocity and length",
        pitches.loudness_weighted_histogram,
    ),
    Feature(
        "pitch_class_transition_matrix",
        "mgeval",
        "pairs",
        "which pitch class follows which at once",
        pitches.adjoining_pitch_classes,
    ),
    Feature("pitch_range", "mgeval", "semitones", "from the lowest pitch to the highest", pitches.pitch_range),
    Feature("avg_pitch_shift", "mgeval", "semitones", "how far apart consecutive notes are", pitches.pitch_interval),
    Feature("avg_IOI", "mgeval", "s", "time from a note to the next", durations.inter_onset_interval),
    Feature("note_length_hist", "mgeval", "share", "how long keys are held", durations.key_length_histogram),
    Feature(
        "note_length_transition_matrix", "mgeval", "moves", "which key length follows which", durations.key_length_moves
    ),
]
FEATURES = {feature.name: feature for feature in _ALL}
STANDARD = tuple(feature.name for feature in _ALL if feature.preset != "mgeval" and feature.name != "key_length")
"""what is compared unless something else is asked for: where one side has no pedals, as models write them, key lengths
are turned into sounding lengths and would count twice"""
PRESETS = tuple(dict.fromkeys(feature.preset for feature in _ALL))


def select(wanted: Iterable[str] | None = None) -> list[Feature]:
    """The features that ``wanted`` names, alone or by preset, each once and in the registry's order; None for all.

    Raises:
        RitornelloError: for a name that is neither a feature nor a preset.
    """
    names = set(PRESETS if wanted is None else wanted)
    for name in sorted(names - FEATURES.keys() - set(PRESETS)):
        raise RitornelloError(
            f"feature {name!r} is unknown; there are {', '.join(FEATURES)}, and the presets {', '.join(PRESETS)}"
        )
    return [feature for feature in _ALL if {feature.name, feature.preset} & names]


def extract(piece: Piece, wanted: Iterable[str] | None = None) -> dict[str, Value]:
    """Name -> value of every wanted feature of one piece (see `select`); all values are finite, whatever the piece."""
    return {feature.name: feature.function(piece) for feature in select(wanted)}
