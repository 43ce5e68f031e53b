"""Sets of pieces compared, feature by feature, and which generated pieces are typical.

How far a generated piece is from the reference: its mean distance to the reference's pieces in each feature, divided by
the mean distance between these, and averaged over the features. So 1 is as far as the reference's own pieces are from
each other, whatever a feature's unit.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from ritornello.errors import RitornelloError, counted
from ritornello.metrics.comparison import Resampling, compare_feature, pairwise
from ritornello.metrics.registry import STANDARD, Feature, select
from ritornello.metrics.repetition import BAND_PIECES, WINDOW_US, repetition_band, repetition_mean, shares_above
from ritornello.notes import Piece
from ritornello.reports.sets import (
    KEY_LENGTH_FEATURES,
    MusicSet,
    Progress,
    read_sets,
    same_music,
    set_of,
)
from ritornello.workers import Failure, map_items

Floats = NDArray[np.float64]
MOST_SHOWN = 3
LAGS = (1, 2, 3, 4, 8, 16, 32, 64, 128, 256, 512, 1024)
"""of tokens, whose autocorrelation is shown"""


class Result(NamedTuple):
    """One feature of both sets."""

    feature: Feature
    reference: Floats  # (R, D)
    generated: Floats  # (G, D)
    figures: dict[str, Any]  # see `metrics.compare_feature`
    apart: Floats | None  # (G,) distances of generated pieces from the reference; None where all of this is alike

    @property
    def inside(self) -> bool:
        return bool(self.figures["verdict"]["inside"])

    @property
    def widths(self) -> float:
        """By how many of its band's widths the score furthest outside lies outside; 0 inside."""
        return float(self.figures["verdict"]["widths_outside"])

    @property
    def verdict(self) -> str:
        return "inside" if self.inside else f"{self.widths:.1f} widths outside"

    @property
    def energy(self) -> float:
        """The energy coefficient to three digits, of which none is a negative zero."""
        return round(float(self.figures["energy"]["score"]), 3) + 0.0

    @property
    def overlap(self) -> dict[str, Any]:
        """The figures of the overlap area that is lower in its band."""
        areas: list[dict[str, Any]] = [self.figures["oa_reference"], self.figures["oa_generated"]]
        return min(areas, key=lambda figures: float(figures["score"] - figures["null"][0]))

    @property
    def means(self) -> tuple[float, float] | None:
        """Mean over the pieces and entries; None for histograms, whose entries have the same mean in all pieces."""
        if self.feature.unit == "share" and self.reference.shape[1] > 1:
            return None
        return float(self.reference.mean()), float(self.generated.mean())


class Standing(NamedTuple):
    """How far one generated piece is from the reference, and in which feature furthest."""

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

    def outside(self) -> list[Result]:
        """The results outside their bands, the furthest first."""
        return sorted(
            (result for result in self.results.values() if not result.inside), key=lambda result: -result.widths
        )

    @cached_property
    def above(self) -> tuple[tuple[float, float], tuple[float, float]] | None:
        """Shares of the windows with more (near, far) repetition than 95% of the reference's pieces have.

        First the reference's own, then the generated set's; None where the reference has too few pieces for a band.
        """
        if len(self.reference.names) < BAND_PIECES:
            return None
        band = repetition_band(self.reference.repetition)
        return shares_above(self.reference.repetition, band), shares_above(self.generated.repetition, band)

    def ranking(self) -> list[Standing]:
        """The generated pieces, the most typical first."""
        known = {name: result.apart for name, result in self.results.items() if result.apart is not None}
        table = np.stack([*known.values()]) if known else np.zeros((1, len(self.generated.names)))
        features = list(known) or ["none"]
        standings = (
            Standing(name, float(column.mean()), features[int(column.argmax())], float(column.max()))
            for name, column in zip(self.generated.names, table.T, strict=True)
        )
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
            f"{side.folder}: {len(side.skipped)} of {counted(len(side.skipped) + len(side.names), 'files')} left out"
            for side in (self.reference, self.generated)
            if side.skipped
        ]
        if self.same:
            lines.append(
                f"{len(self.same)} of {len(self.generated.names)} generated pieces are, note for note, in the "
                f"reference; the first: {self.same[0][1]} is {self.same[0][0]}"
            )
        if self.without_pedals != "none" and KEY_LENGTH_FEATURES & self.results.keys():
            bare = "generated" if self.without_pedals == "reference" else "reference"
            lines.append(
                f"the {bare} pieces have no pedals: for features of key lengths, the {self.without_pedals} pieces' "
                "pedals were turned into note lengths"
            )
        return lines

    def figures(self) -> dict[str, Any]:
        def of_sides(describe: Callable[[MusicSet], dict[str, Any]]) -> dict[str, dict[str, Any]]:
            return {"reference": describe(self.reference), "generated": describe(self.generated)}

        features: dict[str, Any] = {}
        for name, result in self.results.items():
            means = result.means or (None, None)
            about = {"preset": result.feature.preset, "unit": result.feature.unit}
            features[name] = {**about, "reference_mean": means[0], "generated_mean": means[1], **result.figures}
        shares = zip(("reference", "generated"), self.above or ())
        return {
            **of_sides(_about),
            "seed": self.seed,
            "pedals_as_note_lengths": self.without_pedals,
            "notes": self.warnings(),
            "same_on_both_sides": [{"reference": r, "generated": g} for r, g in self.same],
            "inside": self.inside,
            "features_compared": len(self.results),
            "features": features,
            "windows_above_repetition_band": {side: dict(zip(("near", "far"), pair)) for side, pair in shares} or None,
            "repetition_over_time": {"window_s": WINDOW_US / 1e6, **of_sides(_over_time)},
            "token_autocorrelation": {"lags": LAGS, **of_sides(_autocorrelation)},
            "typical": [standing._asdict() for standing in self.typical()],
            "atypical": [standing._asdict() for standing in self.atypical()],
        }


def _about(side: MusicSet) -> dict[str, Any]:
    skipped = [{"file": name, "reason": reason} for name, reason in side.skipped]
    return {"folder": str(side.folder), "pieces": len(side.names), "skipped": skipped}


def _over_time(side: MusicSet) -> dict[str, Any]:
    near, far = repetition_mean(side.repetition)
    return {"near": near.tolist(), "far": far.tolist()}


def _autocorrelation(side: MusicSet) -> dict[str, Any]:
    """Means over the pieces: at each of `LAGS`, and of its size."""
    by_lag, size = side.autocorrelation[:, LAGS].mean(axis=0), side.autocorrelation_size.mean()
    return {"mean": by_lag.tolist(), "mean_size": float(size)}


def compare_folders(
    reference: Path,
    generated: Sequence[Path],
    wanted: Iterable[str] | None = None,
    *,
    seed: int = 0,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> list[Comparison]:
    """Compares folders of MIDI files with one reference; the same figures for any number of ``jobs``.

    Args:
        reference: a folder, searched at any depth.
        generated: the folders that are judged, each on its own.
        wanted: features and presets by name; None for `metrics.STANDARD`.
        seed: of the resampling, the same for each folder.
        jobs: worker processes; None is one for each processor.
        progress: called with (done, total, what) after every file, and again after every feature of a set.

    Raises:
        RitornelloError: for unknown features, and as `read_sets`.
    """
    features = select(STANDARD if wanted is None else wanted)
    known, *others = read_sets(
        [reference, *generated], [feature.name for feature in features], jobs=jobs, progress=progress
    )
    return [_compared(known, other, features, seed=seed, jobs=jobs, progress=progress) for other in others]


def compare_pieces(
    reference: Sequence[Piece],
    generated: Sequence[Piece],
    wanted: Iterable[str] | None = None,
    *,
    seed: int = 0,
    name: str = "generated",
) -> Comparison:
    """Compares pieces that are here already, in this process: what `compare_folders` finds of the same pieces.

    Raises:
        RitornelloError: for unknown features, and fewer than 4 pieces with notes on a side.
    """
    features = select(STANDARD if wanted is None else wanted)
    names = [feature.name for feature in features]
    sides = set_of(reference, names, name="reference"), set_of(generated, names, name=name)
    return _compared(*sides, features, seed=seed, jobs=1)


def _compared(
    reference: MusicSet,
    generated: MusicSet,
    features: Sequence[Feature],
    *,
    seed: int,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    pedals = reference.has_pedals, generated.has_pedals
    without = {(True, False): "reference", (False, True): "generated"}.get(pedals, "none")
    rng = np.random.default_rng(seed)
    resampling = Resampling.draw(rng, reference=len(reference.names), generated=len(generated.names))
    items = [
        (
            reference.values(feature.name, plain=without == "reference"),
            generated.values(feature.name, plain=without == "generated"),
        )
        for feature in features
    ]
    results: dict[str, Result] = {}
    outcomes = map_items(partial(_scores, resampling=resampling), items, workers=jobs)
    for feature, (known, judged), outcome in zip(features, items, outcomes):
        if isinstance(outcome, Failure):
            raise RitornelloError(f"feature {feature.name}: {outcome.reason}; leave it out with --features")
        figures, apart = outcome
        results[feature.name] = Result(feature, known, judged, figures, apart)
        if progress is not None:
            progress(len(results), len(features), feature.name)
    return Comparison(reference, generated, seed, without, same_music(reference, generated), results)


def _scores(item: tuple[Floats, Floats], resampling: Resampling) -> tuple[dict[str, Any], Floats | None]:
    """`metrics.compare_feature`, and how far each generated piece is from the reference."""
    reference, generated = item
    figures = compare_feature(reference, generated, resampling)
    distances, n = pairwise(np.concatenate([reference, generated])), len(reference)
    usual = distances[:n, :n][np.triu_indices(n, 1)].mean()
    return figures, distances[:n, n:].mean(axis=0) / usual if usual else None
