"""Several generated sets beside one reference, as Markdown: a row for each set, and the scores of every feature.

The second table is that of PerceiverS (arXiv 2411.08307, table I) for any models: overlap area and KL divergence.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from ritornello.reports.results import Comparison
from ritornello.reports.words import figure, widths

REPETITION = ("near_repetition", "far_repetition")
HEADER = ("set", "pieces", "inside", "outside", "furthest outside, in widths", "near repetition", "far repetition")
WORST = 3


def markdown(comparisons: Sequence[Comparison]) -> str:
    """Both tables of sets that were compared with the same reference."""
    reference = comparisons[0].reference
    sets = [_row(comparison) for comparison in comparisons]
    human = [f"{reference.folder} (reference)", str(len(reference.names)), "", "", "", *_repetition(comparisons[0], 0)]
    names = list(dict.fromkeys(name for comparison in comparisons for name in comparison.results))
    parts = [
        *_table(HEADER, [human, *sets]),
        "",
        "Inside and outside: features inside the band of random halves of the reference, and others. Repetition: the "
        "mean share of notes that repeat, and the share of windows of 10 s with more of it than 95% of the reference's "
        "pieces have.",
        "",
        *_table(
            ("OA / KLD", *(str(comparison.generated.folder) for comparison in comparisons)),
            [[name, *(_scores(comparison, name) for comparison in comparisons)] for name in names],
        ),
        "",
        "Overlap area and KL divergence (in nats, on one grid) of the distances within the reference and those between "
        "the sets; **bold** is outside the band.",
    ]
    return "\n".join(parts) + "\n"


def _row(comparison: Comparison) -> list[str]:
    outside = comparison.outside()
    worst = ", ".join(f"{result.feature.name} {widths(result)}" for result in outside[:WORST])
    return [
        str(comparison.generated.folder),
        str(len(comparison.generated.names)),
        f"{comparison.inside} of {len(comparison.results)}",
        str(len(outside)),
        worst,
        *_repetition(comparison, 1),
    ]


def _repetition(comparison: Comparison, side: int) -> Iterator[str]:
    """Near and far, of the reference (0) or of the generated set (1)."""
    for kind, name in enumerate(REPETITION):
        result, above = comparison.results.get(name), comparison.above
        means = result.means if result else None
        texts = [] if means is None else [figure(means[side])]
        texts += [] if above is None else [f"{above[side][kind]:.0%} above"]
        yield ", ".join(texts)


def _scores(comparison: Comparison, name: str) -> str:
    if name not in comparison.results:
        return ""
    result = comparison.results[name]
    text = f"{result.figures['oa_reference']['score']:.3f} / {result.figures['kld']['score']:.3f}"
    return text if result.inside else f"**{text}**"


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> Iterator[str]:
    for cells in (header, ["---", *["---:"] * (len(header) - 1)], *rows):
        yield f"| {' | '.join(cells)} |"
