"""What the runs of a study come to: each row's mean and spread over seeds, beside the paper's figures."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Any, NamedTuple

from ritornello.horizons import HorizonSchedule
from ritornello.horizons.costs import costs_of
from ritornello.studies.results import Result

REFERENCE = "full memory"
GROWING = "growing"  # how the name of a row ends whose memories grow during training
UNCHANGED = "unchanged"  # the row of the training study that others are measured against
STATE_AFTER_TOKENS = 16_384  # of a piece: what an unlimited state is counted for


class Published(NamedTuple):
    """A row of the main table of arXiv 2602.19816: MAESTRO, one GPU."""

    perplexity: float
    peak_bytes: float
    tokens_per_s: float


PUBLISHED = {
    "full memory": Published(5.98, 15.5e9, 7618),
    "Perceiver-AR-like": Published(6.54, 6.3e9, 11753),
    "two-scale": Published(5.96, 6.3e9, 10339),
    "binary, sliding": Published(6.51, 7.8e9, 11061),
    "ascending": Published(6.15, 7.0e9, 10540),
}


class Estimate(NamedTuple):
    """A figure, and how far it may be off."""

    mean: float
    spread: float | None
    """standard deviation over seeds, or standard error over pieces; None of a single one"""


@dataclass(frozen=True)
class Row:
    """One schedule's runs."""

    name: str
    runs: list[Result]
    """in the order of their seeds"""

    @property
    def schedule(self) -> HorizonSchedule:
        """The horizons that all runs had."""
        return HorizonSchedule.parse(self.runs[0]["schedule"])

    @property
    def seeds(self) -> list[int]:
        """Those of the runs that are done."""
        return [run["seed"] for run in self.runs]

    @property
    def perplexity(self) -> Estimate:
        """Of whole validation pieces, at the best checkpoint."""
        return self.over_seeds(lambda run: run["evaluation"]["perplexity"])

    @property
    def nats_per_token(self) -> Estimate:
        """Of whole validation pieces, at the best checkpoint."""
        return self.over_seeds(lambda run: run["evaluation"]["nats_per_token"])

    @property
    def tokens_per_s(self) -> float | None:
        """Of training, median over seeds; None where no run was long enough to tell."""
        return median(run["training"]["tokens_per_s"] for run in self.runs)

    @property
    def peak_bytes(self) -> float | None:
        """Of a training's process or device beyond its idle baseline, median over seeds; None where not measured."""
        return median(run["training"]["peak_bytes"] - run["training"]["idle_bytes"] for run in self.runs)

    @property
    def state_bytes(self) -> int:
        """Keys and values of one lane after `STATE_AFTER_TOKENS`, in the precision of the run."""
        settings = self.runs[0]["settings"]
        sizes = {name: settings["recipe_settings"]["model"][name] for name in ("width", "segment_tokens")}
        costs = costs_of(self.schedule, piece_tokens=STATE_AFTER_TOKENS, **sizes)
        return costs.state_bytes[settings["precision"]]

    def over_seeds(self, figure: Callable[[Result], float]) -> Estimate:
        """Mean and standard deviation of a figure of each run."""
        return over_seeds([figure(run) for run in self.runs])

    def by_position(self) -> list[tuple[int, int | None, Estimate]]:
        """Position from, to (None: open end), and nats/token there."""
        bins = zip(*(run["evaluation"]["by_position"] for run in self.runs))
        return [(b[0]["from"], b[0]["to"], over_seeds([one["nats_per_token"] for one in b])) for b in bins]

    def on_material(self, kind: str) -> Estimate | None:
        """Nats/token of ``returning`` or ``new`` material; None where the pieces have none."""
        values = [run["material"][kind]["nats_per_token"] for run in self.runs]
        return None if None in values else over_seeds(values)

    def by_age(self) -> list[tuple[int | None, int | None, int, Estimate | None]]:
        """Age from and to (None and None: what never returned; None: open end), tokens, and nats/token there."""
        bins = zip(*(run["material"].get("by_age", []) for run in self.runs))
        found = []
        for of_runs in bins:
            values = [one["nats_per_token"] for one in of_runs]
            first = of_runs[0]
            found.append((first["from"], first["to"], first["tokens"], None if None in values else over_seeds(values)))
        return found

    def repeats(self) -> list[tuple[int, int, Estimate]]:
        """The repeat test: gap in tokens, pieces, and the gain with its standard error over pieces, seeds averaged."""
        found = []
        for of_runs in zip(*(run.get("repeats", []) for run in self.runs)):
            gains = [statistics.fmean(piece) for piece in zip(*(one["gains"] for one in of_runs))]
            spread = statistics.stdev(gains) / math.sqrt(len(gains)) if len(gains) > 1 else None
            found.append((of_runs[0]["gap_tokens"], len(gains), Estimate(statistics.fmean(gains), spread)))
        return found

    def when_cut(self) -> list[tuple[int, int, Estimate]]:
        """The most tokens that a layer was left, the budget that was left, and nats/token."""
        cuts = zip(*(run["cuts"] for run in self.runs))
        return [
            (c[0]["most_tokens"], c[0]["budget_tokens"], over_seeds([one["nats_per_token"] for one in c])) for c in cuts
        ]

    def behind(self, other: Row) -> Estimate | None:
        """Nats/token that this row is worse by, with the standard error over pieces; None without a common seed.

        Seeds are paired (same weights at the start, same data in the same order), and so are pieces: each piece's
        difference is the mean over seeds, and pieces are the sample.
        """
        pairs = self.paired(other)
        if not pairs:
            return None
        tokens = [piece["tokens"] for piece in pairs[0][0]["by_piece"]]
        differences = [
            statistics.fmean(ours["by_piece"][i]["nats"] - theirs["by_piece"][i]["nats"] for ours, theirs in pairs)
            for i in range(len(tokens))
        ]
        mean = math.fsum(differences) / sum(tokens)
        if len(tokens) == 1:
            return Estimate(mean, None)
        # The ratio estimator's standard error: pieces weigh as much as they have tokens.
        squares = math.fsum((d - mean * n) ** 2 for d, n in zip(differences, tokens))
        return Estimate(mean, math.sqrt(len(tokens) / (len(tokens) - 1) * squares) / sum(tokens))

    def seeds_behind(self, other: Row) -> tuple[int, int]:
        """In how many of the common seeds this row is worse, and how many there are."""
        pairs = self.paired(other)
        worse = sum(a["evaluation"]["nats_per_token"] > b["evaluation"]["nats_per_token"] for a, b in pairs)
        return worse, len(pairs)

    def paired(self, other: Row) -> list[tuple[Result, Result]]:
        """The runs of both rows with the same seed."""
        theirs = {run["seed"]: run for run in other.runs}
        return [(run, theirs[run["seed"]]) for run in self.runs if run["seed"] in theirs]


def over_seeds(values: list[float]) -> Estimate:
    """Mean and standard deviation."""
    return Estimate(statistics.fmean(values), statistics.stdev(values) if len(values) > 1 else None)


def rows_by_name(results: list[Result]) -> list[Row]:
    """Runs by row, each in the order of seeds."""
    by_name: dict[str, list[Result]] = {}
    for result in sorted(results, key=lambda result: result["seed"]):
        by_name.setdefault(result["row"], []).append(result)
    return [Row(name, runs) for name, runs in by_name.items()]


def rows_of(results: list[Result]) -> list[Row]:
    """The rows of the DSMR study in its order: full memory first, then from the best to the worst."""
    return sorted(rows_by_name(results), key=lambda row: (row.name != REFERENCE, row.perplexity.mean))


def reference_of(rows: list[Row]) -> Row | None:
    """The row of full memory, if it is there."""
    return next((row for row in rows if row.name == REFERENCE), None)


def figures_of_rows(results: list[Result]) -> list[dict[str, Any]]:
    """`figures_of` every row of the DSMR study."""
    rows = rows_of(results)
    return [figures_of(row, reference_of(rows)) for row in rows]


def figures_of(row: Row, full: Row | None) -> dict[str, Any]:
    """A row's figures and their ratios to full memory, beside the paper's, as JSON-able values."""
    ours, whole = _measures(row), _measures(full) if full else {}
    paper, base = PUBLISHED.get(row.name), PUBLISHED[REFERENCE]
    behind = row.behind(full) if full and full is not row else None
    return {
        "row": row.name,
        "schedule": str(row.schedule),
        "budget_tokens": row.schedule.budget_tokens,
        "seeds": row.seeds,
        "ratios": {name: _ratio(value, whole.get(name)) for name, value in ours.items()},
        "paper_ratios": paper and {name: a / b for name, a, b in zip(paper._fields, paper, base)},
        **ours,
        "perplexity": row.perplexity._asdict(),
        "nats_per_token": row.nats_per_token._asdict(),
        "behind_full": behind and behind._asdict(),
        "paper": paper and paper._asdict(),
    }


def _measures(row: Row) -> dict[str, float | None]:
    return {
        "perplexity": row.perplexity.mean,
        "tokens_per_s": row.tokens_per_s,
        "peak_bytes": row.peak_bytes,
        "state_bytes": row.state_bytes,
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def median(values: Iterable[float | None]) -> float | None:
    """Of what could be measured; None where nothing could."""
    known = [value for value in values if value]
    return statistics.median(known) if known else None
