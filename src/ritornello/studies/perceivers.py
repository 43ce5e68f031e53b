"""The PerceiverS study as Markdown: what each step from Perceiver AR is worth, and DSMR beside them."""

from __future__ import annotations

from typing import Any

from ritornello.studies.cells import as_table, estimate, interval, number, position_table
from ritornello.studies.conditions import perceivers_conditions
from ritornello.studies.intervals import Interval, Part, behind, behind_by_seed, nats_per_token
from ritornello.studies.results import BEGINNING_TOKENS, Result
from ritornello.studies.summary import Estimate, Row, median, rows_by_name

BASELINE = "Perceiver AR"
PARTS: tuple[Part, ...] = ("by_piece", "beginnings")
ORDER = (BASELINE, "effective segmentation", "multi-scale", "DSMR two-scale")
HEADER = (
    "row",
    "perplexity / baseline",
    "tokens/s / baseline",
    "peak memory / baseline",
    "session / baseline",
    "time per played token / baseline",
    "perplexity",
    "nats/token behind baseline",
    "session",
    "time per played token",
    "parameters",
    "segmentation and sight",
)


def rows_of(results: list[Result]) -> list[Row]:
    """The rows that have runs, from the baseline on."""
    return sorted(rows_by_name(results), key=lambda row: ORDER.index(row.name))


def markdown(results: list[Result]) -> str:
    """The whole report of the runs that there are."""
    rows = rows_of(results)
    baseline = _baseline(rows)
    parts = [
        "## Perplexity, memory and speed",
        f"Ratios to the baseline, {BASELINE}, first."
        + ("" if baseline else " No run of it is done: they are missing."),
        as_table(HEADER, cells(results)),
        perceivers_conditions(rows),
        "## Beginnings",
        f"Nats/token of the first {BEGINNING_TOKENS:,} tokens of every validation piece.",
        _beginnings_table(figures(results)),
        *_verdict(rows, baseline),
        "## By position",
        "Nats/token by position in the piece.",
        position_table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def cells(results: list[Result]) -> list[list[str]]:
    """The table below `HEADER`."""
    return [_line(found) for found in figures(results)]


def figures(results: list[Result]) -> list[dict[str, Any]]:
    """Each row's figures, their ratios to the baseline and what its beginnings cost, as JSON-able values."""
    rows = rows_of(results)
    baseline = _baseline(rows)
    return [_figures_of(row, baseline) for row in rows]


def _baseline(rows: list[Row]) -> Row | None:
    return next((row for row in rows if row.name == BASELINE), None)


def _figures_of(row: Row, baseline: Row | None) -> dict[str, Any]:
    ours, theirs = _measures(row), _measures(baseline) if baseline else {}
    other = baseline if baseline is not row else None
    more = {part: behind(row, other, part) if other else None for part in PARTS}
    return {
        "row": row.name,
        "model": row.runs[0]["model"],
        "segmentation": row.runs[0]["segmentation"],
        "parameters": row.runs[0]["parameters"],
        "seeds": row.seeds,
        "ratios": {name: _ratio(value, theirs.get(name)) for name, value in ours.items()},
        **ours,
        "perplexity": row.perplexity._asdict(),
        "nats_per_token": {part: nats_per_token(row, part)._asdict() for part in PARTS},
        "behind_baseline": {part: found and found._asdict() for part, found in more.items()},
        "beginnings_behind_baseline_by_seed": behind_by_seed(row, other, "beginnings") if other else [],
    }


def _measures(row: Row) -> dict[str, float | None]:
    return {
        "perplexity": row.perplexity.mean,
        "tokens_per_s": row.tokens_per_s,
        "peak_bytes": row.peak_bytes,
        "session_bytes": row.runs[0]["playing"]["session_bytes"],
        "played_token_s": median(run["playing"]["cpu_seconds_per_token"] for run in row.runs),
    }


def _ratio(ours: float | None, theirs: float | None) -> float | None:
    return ours / theirs if ours is not None and theirs else None


def _line(found: dict[str, Any]) -> list[str]:
    ratios, more = found["ratios"], found["behind_baseline"]["by_piece"]
    return [
        found["row"],
        number(ratios["perplexity"], ".3f"),
        *(number(ratios[name], ".2f") for name in ("tokens_per_s", "peak_bytes", "session_bytes", "played_token_s")),
        estimate(Estimate(**found["perplexity"]), ".3f"),
        interval(more and Interval(**more), "+.4f"),
        f"{found['session_bytes'] / 1e6:.2f} MB",
        f"{found['played_token_s'] * 1000:.2f} ms",
        f"{found['parameters']:,}",
        _sight(found["model"], found["segmentation"]),
    ]


def _sight(model: dict[str, Any], segmentation: str | None) -> str:
    """How a row reads, and how far it looks."""
    if model["family"] == "dsmr":
        return f"whole pieces; horizons {model['schedule']}"
    looks = " then ".join(f"{scale or model['context_tokens']:,}" for scale in model["scales"])
    return f"{segmentation}; looks back {looks}, {model['layers']} layers"


def _beginnings_table(found: list[dict[str, Any]]) -> str:
    lines = []
    for row in found:
        more, nats = row["behind_baseline"]["beginnings"], row["nats_per_token"]["beginnings"]
        by_seed = ", ".join(f"{value:+.4f}" for value in row["beginnings_behind_baseline_by_seed"])
        lines.append(
            [row["row"], interval(more and Interval(**more), "+.4f"), by_seed, interval(Interval(**nats), ".4f")]
        )
    return as_table(("row", f"nats/token behind {BASELINE}", "the same by seed", "nats/token"), lines)


def _verdict(rows: list[Row], baseline: Row | None) -> list[str]:
    """The first experiment in one sentence."""
    segmented = next((row for row in rows if row.name == ORDER[1]), None)
    more = behind(baseline, segmented, "beginnings") if baseline and segmented else None
    return [_said(more)] if more else []


def _said(more: Interval) -> str:
    sure = "excludes" if more.low > 0 or more.high < 0 else "includes"
    word = "behind" if more.mean > 0 else "ahead of"
    return (
        f"{BASELINE} is {abs(more.mean):.4f} nats/token {word} the same model with {ORDER[1]} there; "
        f"the interval, {interval(more, '+.4f').split(' ', 1)[1]}, {sure} zero."
    )
