"""Musical features of pieces, and how far a generated set is from a reference.

Reading order: ``registry`` (every feature by name; extraction), ``pitches``, ``durations``, ``segments``,
``expression``, ``repetition`` and ``structure`` (the features), ``densities`` (two sets of distances as densities),
``comparison`` (scores, intervals, the null). Needs numpy alone.
"""

from ritornello.metrics.comparison import Resampling, compare, compare_feature
from ritornello.metrics.densities import kld, kld_mgeval, overlap_area
from ritornello.metrics.registry import FEATURES, PRESETS, STANDARD, Feature, extract, select
from ritornello.metrics.repetition import (
    autocorrelation,
    repetition_band,
    repetition_curve,
    repetition_mean,
    shares_above,
)
from ritornello.metrics.structure import DURATIONS_S, self_similarity, structure_curve

__all__ = [
    "DURATIONS_S",
    "FEATURES",
    "PRESETS",
    "STANDARD",
    "Feature",
    "Resampling",
    "autocorrelation",
    "compare",
    "compare_feature",
    "extract",
    "kld",
    "kld_mgeval",
    "overlap_area",
    "repetition_band",
    "repetition_curve",
    "repetition_mean",
    "select",
    "self_similarity",
    "shares_above",
    "structure_curve",
]
