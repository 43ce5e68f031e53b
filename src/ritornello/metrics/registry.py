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
from ritornello.metrics import durations, pitches, playing, repetition, segments, structure
from ritornello.notes import Piece

Value = float | NDArray[np.float64]


class Feature(NamedTuple):
    """One musical feature; ``function`` holds its definition."""

    name: str
    preset: str
    unit: str  # of its entries
    function: Callable[[Piece], Value]


_ALL = [
    Feature("PC", "perceivers", "pitch classes", pitches.pitch_classes_used),
    Feature("NC", "perceivers", "pitches", pitches.pitches_used),
    Feature("PCH", "perceivers", "share", pitches.pitch_class_histogram),
    Feature("PCTM", "perceivers", "share", pitches.pitch_class_transitions),
    Feature("PR", "perceivers", "semitones", pitches.pitch_range),
    Feature("PI", "perceivers", "semitones", pitches.pitch_interval),
    Feature("IOI", "perceivers", "s", durations.inter_onset_interval),
    Feature("NLH", "perceivers", "share", durations.note_length_histogram),
    Feature("NLTM", "perceivers", "share", durations.note_length_transitions),
    Feature("PC/seg", "perceivers", "pitch classes", segments.pitch_classes_per_segment),
    Feature("NC/seg", "perceivers", "pitches", segments.pitches_per_segment),
    Feature("PCH/seg", "perceivers", "share", segments.pitch_class_histograms),
    Feature("IOI/seg", "perceivers", "s", segments.inter_onset_intervals),
    Feature("velocity_mean", "playing", "velocity", playing.velocity_mean),
    Feature("velocity_spread", "playing", "velocity", playing.velocity_spread),
    Feature("note_density", "playing", "notes/s", playing.note_density),
    Feature("polyphony", "playing", "notes", playing.polyphony),
    Feature("key_length", "playing", "s", playing.key_length),
    Feature("sounding_length", "playing", "s", playing.sounding_length),
    Feature("near_repetition", "structure", "share", repetition.near_repetition),
    Feature("far_repetition", "structure", "share", repetition.far_repetition),
    Feature("structure_curve", "structure", "fitness", structure.structure_curve),
    Feature("total_used_pitch", "mgeval", "pitches", pitches.pitches_used),
    Feature("total_used_note", "mgeval", "notes", pitches.notes_struck),
    Feature("total_pitch_class_histogram", "mgeval", "share", pitches.loudness_weighted_histogram),
    Feature("pitch_class_transition_matrix", "mgeval", "pairs", pitches.adjoining_pitch_classes),
    Feature("pitch_range", "mgeval", "semitones", pitches.pitch_range),
    Feature("avg_pitch_shift", "mgeval", "semitones", pitches.pitch_interval),
    Feature("avg_IOI", "mgeval", "s", durations.inter_onset_interval),
    Feature("note_length_hist", "mgeval", "share", durations.key_length_histogram),
    Feature("note_length_transition_matrix", "mgeval", "moves", durations.key_length_moves),
]
FEATURES = {feature.name: feature for feature in _ALL}
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
