"""All figures of one comparison: every feature beside its null, and which generated pieces are typical.

Features are compared in worker processes. How far a generated piece is from the reference: its mean distance to the
reference's pieces in each feature, divided by the mean distance between these, and averaged over the features. So 1 is
as far as the reference's own pieces are from each other, whatever a feature's unit.
"""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.corpus.workers import Failure, map_files
from ritornello.errors import RitornelloError
from ritornello.metrics import Feature, Resampling, compare_feature, select
from ritornello.metrics.comparison import pairwise
from ritornello.metrics.densities import Distances
from ritornello.reports.drawing import apart
from ritornello.reports.sets import KEY_LENGTH_FEATURES, MusicSet, Progress, read_sets, same_music

Floats = NDArray[np.float64]
DEFAULT_PRESETS = ("perceivers", "playing", "structure")
FEATURE_TIMEOUT_S = 3600.0
CURVE_POINTS, CURVE_BINS = 160, 1024
LONG_TAIL = 0.995  # of each set's distances are drawn
MOST_SHOWN = 3


class DistanceCurves(NamedTuple):
    """Densities of distances at ``at``, all (160,), as Gaussian kernels show them; for pictures, not for figures."""

    at: Floats
    reference: Floats
    generated: Floats
    inter: Floats


class Result(NamedTuple):
    """One feature of both sets."""

    feature: Feature
    reference: Floats  # (R, D)
    generated: Floats  # (G, D)
    figures: dict[str, Any]  # see `metrics.compare_feature`
    curves: DistanceCurves
    apart: Floats | None  # (G,) distances of generated pieces from the reference; None where all of this is alike

    @property
    def inside(self) -> bool:
        return bool(self.figures["verdict"]["inside"])

    @property
    def means(self) -> tuple[float, float] | None:
        """Mean over the pieces and entries; None for histograms, whose entries have the same mean in all pieces."""
        if self.feature.unit == "share" and self.reference.shape[1] > 1:
            return None
        return float(self.reference.mean()), float(self.generated.mean())


class Standing(NamedTuple):
    """How far one generated piece is from the reference, and in which feature furthest."""

    place: int  # in the generated set
    name: str
    distance: float
    furthest: str
    furthest_distance: float


@dataclass(frozen=True)
class Comparison:
    """Two sets of pieces and the results of every feature, in the registry's order."""

    reference: MusicSet
    generated: MusicSet
    seed: int
    without_pedals: str  # whose pedals counted as note lengths in `KEY_LENGTH_FEATURES`: reference, generated or none
    same: list[tuple[str, str]]  # see `same_music`
    results: dict[str, Result]

    @property
    def inside(self) -> int:
        return sum(result.inside for result in self.results.values())

    def ranking(self) -> list[Standing]:
        """The generated pieces, the most typical first."""
        known = {name: result.apart for name, result in self.results.items() if result.apart is not None}
        table = np.stack([*known.values()]) if known else np.zeros((1, len(self.generated.names)))
        features = list(known) or ["none"]
        standings = [
            Standing(i, name, float(column.mean()), features[int(column.argmax())], float(column.max()))
            for i, (name, column) in enumerate(zip(self.generated.names, table.T, strict=True))
        ]
        return sorted(standings, key=lambda standing: (standing.distance, standing.name))

    def typical(self) -> list[Standing]:
        """The most typical generated pieces, at most 3."""
        return self.ranking()[: self._shown]

    def atypical(self) -> list[Standing]:
        """The least typical ones, the worst first; none of `typical`."""
        return self.ranking()[: -self._shown - 1 : -1]

    @property
    def _shown(self) -> int:
        return min(MOST_SHOWN, len(self.generated.names) // 2)

    def warnings(self) -> list[str]:
        """What a reader must know before believing the figures, a line each."""
        lines = [
            f"{side.folder}: {len(side.skipped)} of {len(side.skipped) + len(side.names)} files left out"
            for side in (self.reference, self.generated)
            if side.skipped
        ]
        if self.same:
            lines.append(
                f"{len(self.same)} of {len(self.generated.names)} generated pieces are, note for note, in the "
                f"reference; the first: {self.same[0][1]} is {self.same[0][0]}"
            )
        if self.without_pedals != "none" and set(KEY_LENGTH_FEATURES) & self.results.keys():
            other = "generated" if self.without_pedals == "reference" else "reference"
            lines.append(
                f"the {other} pieces have no pedals: for features of key lengths, the {self.without_pedals} pieces' "
                "pedals were turned into note lengths"
            )
        return lines

    def figures(self) -> dict[str, Any]:
        """Everything as JSON-able values."""
        features: dict[str, Any] = {}
        for name, result in self.results.items():
            means = result.means or (None, None)
            about = {"preset": result.feature.preset, "unit": result.feature.unit}
            features[name] = {**about, "reference_mean": means[0], "generated_mean": means[1], **result.figures}
        return {
            "reference": _about(self.reference),
            "generated": _about(self.generated),
            "seed": self.seed,
            "pedals_as_note_lengths": self.without_pedals,
            "notes": self.warnings(),
            "same_on_both_sides": [{"reference": r, "generated": g} for r, g in self.same],
            "inside": self.inside,
            "features_compared": len(self.results),
            "features": features,
            "typical": [_standing(standing) for standing in self.typical()],
            "atypical": [_standing(standing) for standing in self.atypical()],
        }


def compare_folders(
    reference: Path,
    generated: Path,
    wanted: Iterable[str] | None = None,
    *,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    """Compares the MIDI files of two folders; the same figures for any number of ``jobs``.

    Args:
        reference: a folder, searched at any depth.
        generated: the folder that is judged.
        wanted: features and presets by name; None for perceivers, playing and structure.
        seed: of the resampling.
        jobs: worker processes; None is one for each processor.
        progress: called with (done, total, what) after every file, and again after every feature.

    Raises:
        RitornelloError: for unknown features, and as `read_sets`.
    """
    features = select(DEFAULT_PRESETS if wanted is None else wanted)
    sets = read_sets(reference, generated, [feature.name for feature in features], jobs=jobs, progress=progress)
    pedals = sets[0].has_pedals, sets[1].has_pedals
    without = {(True, False): "reference", (False, True): "generated"}.get(pedals, "none")
    rng = np.random.default_rng(seed)
    resampling = Resampling.draw(rng, reference=len(sets[0].names), generated=len(sets[1].names))
    items = [
        (sets[0].values(f.name, plain=without == "reference"), sets[1].values(f.name, plain=without == "generated"))
        for f in features
    ]
    results: dict[str, Result] = {}
    compared = map_files(partial(_compared, resampling=resampling), items, workers=jobs, timeout_s=FEATURE_TIMEOUT_S)
    for index, outcome in compared:
        feature = features[index]
        if isinstance(outcome, Failure):
            raise RitornelloError(f"feature {feature.name}: {outcome.reason}; leave it out with --features")
        figures, curves, apart = outcome
        results[feature.name] = Result(feature, *items[index], figures, curves, apart)
        if progress is not None:
            progress(len(results), len(features), feature.name)
    ordered = {feature.name: results[feature.name] for feature in features}
    return Comparison(*sets, seed, without, same_music(*sets), ordered)


def _compared(
    item: tuple[Floats, Floats], resampling: Resampling
) -> tuple[dict[str, Any], DistanceCurves, Floats | None]:
    reference, generated = item
    figures = compare_feature(reference, generated, resampling)
    n = len(reference)
    distances = pairwise(np.concatenate([reference, generated]))
    of_reference = distances[:n, :n][np.triu_indices(n, 1)]
    of_generated = distances[n:, n:][np.triu_indices(len(generated), 1)]
    inter = distances[:n, n:]
    usual = of_reference.mean()
    return figures, _curves(of_reference, of_generated, inter.ravel()), inter.mean(axis=0) / usual if usual else None


def _curves(*sets: Floats) -> DistanceCurves:
    low = min(float(values.min()) for values in sets)
    high = max(float(np.quantile(values, LONG_TAIL)) for values in sets)
    at = np.linspace(*apart(low, high), CURVE_POINTS)
    return DistanceCurves(at, *(_density(values, at) for values in sets))


def _density(values: Floats, at: Floats) -> Floats:
    """Gaussian kernels by Scott's rule; a set of equal distances is a narrow peak."""
    bandwidth = max(Distances(values).bandwidth, 2 * (at[1] - at[0]))
    counts, edges = np.histogram(values, CURVE_BINS, range=apart(float(values.min()), float(values.max())))
    middles = (edges[1:] + edges[:-1]) / 2
    kernels = np.exp(-0.5 * ((at[:, None] - middles) / bandwidth) ** 2)
    density: Floats = kernels @ counts / (len(values) * bandwidth * math.sqrt(2 * math.pi))
    return density


def _about(side: MusicSet) -> dict[str, Any]:
    skipped = [{"file": name, "reason": reason} for name, reason in side.skipped]
    return {"folder": str(side.folder), "pieces": len(side.names), "skipped": skipped}


def _standing(standing: Standing) -> dict[str, Any]:
    figures = standing._asdict()
    del figures["place"]
    return figures
