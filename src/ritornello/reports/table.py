"""Several generated sets beside one reference, as Markdown: a row for each, scores of every feature, repetition.

The second table is that of PerceiverS (arXiv 2411.08307, table I) for any models: overlap area and KL divergence. The
last two are of its equation 9 and figures 3 to 5: autocorrelation of tokens by lag, and repetition as pieces go on.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

import numpy as np

from ritornello.metrics.repetition import BAND, BAND_PIECES, WINDOW_US
from ritornello.reports.comparison import LAGS, Comparison
from ritornello.reports.sets import LONGEST_LAG, MusicSet

REPETITION = ("near_repetition", "far_repetition")
HEADER = ("set", "pieces", "inside", "outside", "furthest outside, in widths", "near repetition", "far repetition")
WORST = 3
MINUTES = (0, 1, 2, 4, 8, 16, 32)
"""where the stretches of time begin over which repetition is told; the last has no end"""


def markdown(comparisons: Sequence[Comparison]) -> str:
    """All tables of sets that were compared with the same reference."""
    names = list(dict.fromkeys(name for comparison in comparisons for name in comparison.results))
    scores = [[name, *(_scores(comparison, name) for comparison in comparisons)] for name in names]
    parts = [
        *sets_table(comparisons),
        markdown_table(("OA / KLD", *(str(comparison.generated.folder) for comparison in comparisons)), scores),
        "Overlap area and KL divergence (in nats, on one grid) of the distances within the reference and those between "
        "the sets; **bold** is outside the band.",
        *repetition_tables(comparisons),
    ]
    return "\n\n".join(parts) + "\n"


def sets_table(comparisons: Sequence[Comparison]) -> list[str]:
    """A row for the reference and for each set, and what it says."""
    reference = comparisons[0].reference
    human = [_name(reference), str(len(reference.names)), "", "", "", *_repetition(comparisons[0], 0)]
    return [
        markdown_table(HEADER, [human, *map(_row, comparisons)]),
        "Inside and outside: features inside the band of random halves of the reference, and others. Repetition: the "
        "mean share of notes that repeat, and the share of windows of 10 s with more of it than 95% of the reference's "
        "pieces have.",
    ]


def repetition_tables(comparisons: Sequence[Comparison]) -> list[str]:
    """Autocorrelation of tokens by lag, and repetition as pieces go on; after each table what it says."""
    reference, sets = comparisons[0].reference, [comparison.generated for comparison in comparisons]
    by_lag = [[_name(reference), *_by_lag(reference)], ["its pieces, 90%", *_range_by_lag(reference)]]
    by_lag += [[str(side.folder), *_by_lag(side)] for side in sets]
    over_time = [[_name(reference), *_over_time(reference)], *([str(side.folder), *_over_time(side)] for side in sets)]
    until = [f"to {minutes}" for minutes in MINUTES[1:]] + ["on"]
    stretches = [f"{minutes} {end} min" for minutes, end in zip(MINUTES, until)]
    shown = [column for column in range(1, 1 + len(stretches)) if any(line[column] for line in over_time)]
    return [
        markdown_table(("token autocorrelation at lag", *(f"{lag:,}" for lag in LAGS), "mean size"), by_lag),
        "Token autocorrelation (PerceiverS, equation 9, token ids as numbers): the mean over pieces; its size is the "
        f"mean without signs over all lags from 1 to {LONGEST_LAG:,}. At lags beyond a piece's end it is 0. Of the "
        "reference also where nine tenths of its pieces lie.",
        markdown_table(
            ("near / far repetition", *(stretches[column - 1] for column in shown)),
            [[line[0], *(line[column] for column in shown)] for line in over_time],
        ),
        "Repetition over time: the mean share of notes, in windows of 10 s, that repeat the last 30 s (near) or what "
        f"is longer ago (far), where at least {BAND_PIECES} pieces are as long.",
    ]


def number(value: float) -> str:
    """Three digits that count, the digits before the point always whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def _name(reference: MusicSet) -> str:
    return f"{reference.folder} (reference)"


def _by_lag(side: MusicSet) -> Iterator[str]:
    yield from (f"{mean:.3f}" for mean in side.autocorrelation[:, LAGS].mean(axis=0))
    yield f"{side.autocorrelation_size.mean():.4f}"


def _range_by_lag(side: MusicSet) -> Iterator[str]:
    by_lag = np.quantile(side.autocorrelation[:, LAGS], BAND, axis=0)
    yield from (f"{low:.3f} to {high:.3f}" for low, high in by_lag.T)
    yield "{:.4f} to {:.4f}".format(*np.quantile(side.autocorrelation_size, BAND))


def _over_time(side: MusicSet) -> Iterator[str]:
    """A cell for each stretch that begins at `MINUTES`; empty where too few pieces reach it."""
    windows = [minutes * 60_000_000 // WINDOW_US for minutes in MINUTES]
    for first, last in zip(windows, [*windows[1:], None]):
        curves = [np.stack(measured.repetition)[:, first:last] for measured in side.measured]
        reached = [curve for curve in curves if curve.size]
        means = np.concatenate(reached, axis=1).mean(axis=1) if reached else ()
        yield "{:.3f} / {:.3f}".format(*means) if len(reached) >= min(BAND_PIECES, len(curves)) else ""


def _row(comparison: Comparison) -> list[str]:
    outside = comparison.outside()
    worst = ", ".join(f"{result.feature.name} {result.widths:.1f}" for result in outside[:WORST])
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
        texts = [] if means is None else [number(means[side])]
        texts += [] if above is None else [f"{above[side][kind]:.0%} above"]
        yield ", ".join(texts)


def _scores(comparison: Comparison, name: str) -> str:
    if name not in comparison.results:
        return ""
    result = comparison.results[name]
    text = f"{result.figures['oa_reference']['score']:.3f} / {result.figures['kld']['score']:.3f}"
    return text if result.inside else f"**{text}**"


def markdown_table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    lines = (header, ["---", *["---:"] * (len(header) - 1)], *rows)
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)
