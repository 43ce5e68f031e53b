"""Sets of pieces compared: from folders, of which each is read once, or from pieces that are here already."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ritornello.corpus.workers import Failure, map_files
from ritornello.errors import RitornelloError
from ritornello.metrics import STANDARD, Resampling, compare_feature, select
from ritornello.metrics.comparison import pairwise
from ritornello.metrics.densities import Distances
from ritornello.notes import Piece
from ritornello.reports.drawing import apart
from ritornello.reports.results import Comparison, DistanceCurves, Result
from ritornello.reports.sets import MusicSet, Progress, read_sets, same_music, set_of

Floats = NDArray[np.float64]
Item = tuple[Floats, Floats]
Compared = tuple[dict[str, Any], DistanceCurves, Floats | None]
CURVE_POINTS, CURVE_BINS = 160, 1024
LONG_TAIL = 0.995  # of each set's distances are drawn


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
    names = _names(wanted)
    known, *others = read_sets([reference, *generated], names, jobs=jobs, progress=progress)
    return [_compared_sets(known, other, names, seed=seed, jobs=jobs, progress=progress) for other in others]


def compare_pieces(
    reference: Sequence[Piece],
    generated: Sequence[Piece],
    wanted: Iterable[str] | None = None,
    *,
    seed: int = 0,
    name: str = "generated",
) -> Comparison:
    """Compares pieces that are here already, in this process: what `compare_folders` finds of the same pieces.

    Args:
        reference: at least 4 pieces with notes.
        generated: the pieces that are judged, as many.
        wanted: see `compare_folders`.
        seed: of the resampling.
        name: what the generated set is called in tables.

    Raises:
        RitornelloError: for unknown features, and fewer than 4 pieces with notes on a side.
    """
    names = _names(wanted)
    known, other = set_of(reference, names, name="reference"), set_of(generated, names, name=name)
    return _compared_sets(known, other, names, seed=seed, jobs=1)


def _names(wanted: Iterable[str] | None) -> list[str]:
    return [feature.name for feature in select(STANDARD if wanted is None else wanted)]


def _compared_sets(
    reference: MusicSet,
    generated: MusicSet,
    names: Sequence[str],
    *,
    seed: int,
    jobs: int | None = None,
    progress: Progress | None = None,
) -> Comparison:
    pedals = reference.has_pedals, generated.has_pedals
    without = {(True, False): "reference", (False, True): "generated"}.get(pedals, "none")
    features = select(names)
    resampling = Resampling.draw(
        np.random.default_rng(seed), reference=len(reference.names), generated=len(generated.names)
    )
    items = [
        (reference.values(f.name, plain=without == "reference"), generated.values(f.name, plain=without == "generated"))
        for f in features
    ]
    results: dict[str, Result] = {}
    for index, outcome in _mapped(partial(_compared, resampling=resampling), items, jobs):
        feature = features[index]
        if isinstance(outcome, Failure):
            raise RitornelloError(f"feature {feature.name}: {outcome.reason}; leave it out with --features")
        figures, curves, away = outcome
        results[feature.name] = Result(feature, *items[index], figures, curves, away)
        if progress is not None:
            progress(len(results), len(features), feature.name)
    ordered = {feature.name: results[feature.name] for feature in features}
    return Comparison(reference, generated, seed, without, same_music(reference, generated), ordered)


def _mapped(
    function: Callable[[Item], Compared], items: Sequence[Item], jobs: int | None
) -> Iterator[tuple[int, Compared | Failure]]:
    """As `map_files`; with one process, this one."""
    if jobs == 1:
        return enumerate(map(function, items))
    return map_files(function, items, workers=jobs)


def _compared(item: Item, resampling: Resampling) -> Compared:
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
