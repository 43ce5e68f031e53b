"""Table I of PerceiverS (arXiv 2411.08307) for a study's rows: what they play beside people's pieces, by feature."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from ritornello.metrics import select
from ritornello.metrics.comparison import TOLERANCE
from ritornello.reports import Comparison, compare_folders, draw_repetition
from ritornello.reports.sets import Progress
from ritornello.reports.table import repetition_tables, sets_table
from ritornello.studies.cells import as_table
from ritornello.studies.playing import Sets

PEOPLE = "other people"
FEATURES = tuple(feature.name for feature in select(["perceivers"]))
SCORES = {"oa": "oa_reference", "kld": "kld", "kld_mgeval": "kld_mgeval"}
PAPER_TOKENS = 8192
PAPER_HIGHER = {
    "effective segmentation": ("PC", "NC", "PCTM", "PR", "PI", "IOI", "NLTM", "PC/seg", "NC/seg", "IOI/seg"),
    "multi-scale": ("PCH", "IOI", "NLH", "NLTM", "PCH/seg", "IOI/seg"),
}
"""in which features the paper's section VI-B finds the overlap area of each step higher than before it"""
PAPER_MEAN = {"multi-scale": "+40%"}
"""by how much the overlap area is above the baseline's on average (section I)"""

Compared = Mapping[str, Sequence[Comparison]]
"""the comparisons of each row's runs with the reference, in the order of columns; `PEOPLE` first where they are"""


def compare_sets(
    sets: Sets, rows: Iterable[str], *, jobs: int | None = None, progress: Progress | None = None
) -> Compared:
    """Every set beside the reference.

    Args:
        sets: as `make_sets` left them.
        rows: names, in the order of columns; those without sets are left out.
        jobs: see `compare_folders`.
        progress: see `compare_folders`.

    Raises:
        RitornelloError: as `compare_folders`.
    """
    reference, *others = sets.human
    folders = [*others, *sets.played.values()]
    wanted = (*FEATURES, "near_repetition", "far_repetition")
    found = compare_folders(reference, folders, wanted, jobs=jobs, progress=progress)
    by_folder = {folder: _shortly_named(comparison) for folder, comparison in zip(folders, found)}
    names = {PEOPLE: others}
    names |= {row: [path for (name, _), path in sorted(sets.played.items()) if name == row] for row in rows}
    return {name: [by_folder[path] for path in paths] for name, paths in names.items() if paths}


def _shortly_named(comparison: Comparison) -> Comparison:
    sides = {name: getattr(comparison, name) for name in ("reference", "generated")}
    return replace(comparison, **{name: replace(side, folder=Path(side.folder.name)) for name, side in sides.items()})


def figures(sets: Sets, compared: Compared, baseline: str) -> dict[str, Any]:
    """Scores of each row and feature, the means over seeds, and all that is known of each set, as JSON-able values."""
    rows = {name: _scores(comparisons) for name, comparisons in compared.items()}
    for name, scores in rows.items():
        for feature, found in scores.items():
            theirs = rows[baseline][feature]["oa"] if baseline in rows and name not in (baseline, PEOPLE) else 0
            found["oa_more"] = found["oa"] / theirs - 1 if theirs > TOLERANCE else None  # of nothing all is too much
    return {
        **{name: getattr(sets, name) for name in ("corpus", "pieces", "tokens")},
        **asdict(sets.sampling),
        "baseline": baseline,
        "rows": rows,
        "mean_oa_more": {name: _mean_more(scores) for name, scores in rows.items()},
        "sets": [comparison.figures() for comparison in _each(compared)],
    }


def _scores(comparisons: Sequence[Comparison]) -> dict[str, dict[str, Any]]:
    return {
        feature: {
            name: statistics.fmean(one.results[feature].figures[score]["score"] for one in comparisons)
            for name, score in SCORES.items()
        }
        | {"outside": not any(one.results[feature].inside for one in comparisons)}
        for feature in FEATURES
    }


def _mean_more(scores: Mapping[str, Mapping[str, Any]]) -> float | None:
    known = [found["oa_more"] for found in scores.values() if found["oa_more"] is not None]
    return statistics.fmean(known) if known else None


def markdown(sets: Sets, compared: Compared, baseline: str) -> str:
    """The section of a report on what the models play; ``baseline`` is the row that others' areas are compared with."""
    found, comparisons = figures(sets, compared, baseline), _each(compared)
    rows = found["rows"]
    lines = [[feature, *(_cell(scores[feature]) for scores in rows.values())] for feature in FEATURES]
    means = [
        {name: statistics.fmean(one[name] for one in scores.values()) for name in SCORES} for scores in rows.values()
    ]
    lines.append(["mean", *(_cell({**mean, "outside": False}) for mean in means)])
    parts = [
        "## What the models play",
        *sets_table(comparisons),
        as_table(("OA / KLD / KLD of mgeval", *rows), lines),
        "Overlap area, and KL divergence in nats on one grid and in mgeval's way (each density on its own), of the "
        "distances within the reference and those between the sets; the means over seeds. **Bold** is outside the "
        "band of random halves of the reference with every seed.",
        *_comparison(found),
        *repetition_tables(comparisons),
        _conditions(sets, comparisons),
    ]
    return "\n\n".join(parts) + "\n"


def _cell(found: Mapping[str, Any]) -> str:
    text = " / ".join(f"{found[name]:.3f}" for name in SCORES)
    return f"**{text}**" if found["outside"] else text


def _comparison(found: Mapping[str, Any]) -> list[str]:
    """The paper's column of that name, beside what its text says of it."""
    baseline, means = (
        found["baseline"],
        {name: mean for name, mean in found["mean_oa_more"].items() if mean is not None},
    )
    if not means:
        return [f"No set of {baseline} beside another: nothing to compare overlap areas with."]
    header, lines = ["OA more than the baseline's"], [[feature] for feature in (*FEATURES, "mean")]
    for name, mean in means.items():
        higher = PAPER_HIGHER.get(name)
        header += [name, "paper"] if higher else [name]
        for line, feature in zip(lines, FEATURES):
            line.append(_percent(found["rows"][name][feature]["oa_more"]))
            line += [] if higher is None else ["higher" if feature in higher else ""]
        lines[-1].append(_percent(mean))
        lines[-1] += [] if higher is None else [PAPER_MEAN.get(name, "")]
    words = (
        f"By how much the overlap area is above that of {baseline}, the baseline; empty, and left out of the mean, "
        f"where that is below {TOLERANCE:g}."
    )
    if set(means) & set(PAPER_HIGHER):
        words += (
            " Paper: where its section VI-B says that a step made the area higher, and the mean over features of "
            "its section I; the figures of its table I were not at hand."
        )
    return [as_table(tuple(header), lines), words]


def _percent(share: float | None) -> str:
    return "" if share is None else f"{share:+.1%}"


def _conditions(sets: Sets, comparisons: Sequence[Comparison]) -> str:
    pieces, tokens = sets.pieces, sets.tokens
    second = f"{PEOPLE} are {pieces} more" if len(sets.human) > 1 else "there are too few titles for a second such set"
    drawn = ", ".join(f"{name.replace('_', '-')} {value:g}" for name, value in asdict(sets.sampling).items())
    lines = [
        f"Reference: {pieces} pieces of the validation and test splits of {sets.corpus}, one performance of a title, "
        f"each cut to {tokens:,} tokens; {second}.",
        f"Played: {pieces} pieces of {tokens:,} tokens, or to their end, from the best checkpoint of each run; piece n "
        f"with seed n, {drawn}.",
        *([] if tokens == PAPER_TOKENS else [f"Not equal to the paper: its pieces have {PAPER_TOKENS:,} tokens."]),
        *dict.fromkeys(line for comparison in comparisons for line in comparison.warnings()),
    ]
    return "\n".join(f"- {line}" for line in lines)


def draw(compared: Compared, path: Path) -> None:
    """Repetition over time of the reference and every set (see `draw_repetition`)."""
    comparisons = _each(compared)
    sides = [comparisons[0].reference, *(comparison.generated for comparison in comparisons)]
    draw_repetition({str(side.folder): side for side in sides}, path)


def _each(compared: Compared) -> list[Comparison]:
    return [comparison for comparisons in compared.values() for comparison in comparisons]
