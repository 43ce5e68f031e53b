"""The DSMR study as Markdown: the paper's table with our figures beside the paper's, and what memory was used for."""

from __future__ import annotations

from typing import Any

from ritornello.studies.cells import as_table, estimate, number, position_table, repeat_tables
from ritornello.studies.conditions import dsmr_conditions
from ritornello.studies.results import Result
from ritornello.studies.summary import Estimate, Row, figures_of, reference_of, rows_of

HEADER = (
    "row",
    "perplexity / full",
    "paper",
    "tokens/s / full",
    "paper",
    "peak memory / full",
    "paper",
    "state / full",
    "perplexity",
    "paper",
    "nats/token behind full",
    "horizons",
)


def markdown(results: list[Result]) -> str:
    """The whole report of the runs that there are."""
    rows = rows_of(results)
    cells = [[*line[:-1], f"`{line[-1]}`"] for line in main_cells(rows)]
    parts = [
        "## Perplexity, memory and speed",
        "Ratios to full memory first, each with the paper's beside it."
        + ("" if reference_of(rows) else " No run of full memory is done: ours are missing."),
        as_table(HEADER, cells),
        dsmr_conditions(rows),
        *_substitutability(rows),
        "## What memory is for",
        "Nats/token inside passages that returned, and of all other tokens; both from the first token of a piece on "
        "that can be a return.",
        _material_table(rows),
        *repeat_tables(rows),
        "Nats/token by position in the piece.",
        position_table(rows),
        "Nats/token when no layer of the trained model is left more tokens than so many (empty: none had more).",
        _cuts_table(rows),
    ]
    return "\n\n".join(parts) + "\n"


def main_cells(rows: list[Row]) -> list[list[str]]:
    """The paper's table below `HEADER`."""
    full = reference_of(rows)
    return [_main_line(figures_of(row, full)) for row in rows]


def _main_line(figures: dict[str, Any]) -> list[str]:
    ratios, theirs, paper = figures["ratios"], figures["paper_ratios"] or {}, figures["paper"] or {}
    return [
        figures["row"],
        number(ratios["perplexity"], ".3f"),
        number(theirs.get("perplexity"), ".3f"),
        number(ratios["tokens_per_s"], ".2f"),
        number(theirs.get("tokens_per_s"), ".2f"),
        number(ratios["peak_bytes"], ".2f"),
        number(theirs.get("peak_bytes"), ".2f"),
        number(ratios["state_bytes"], ".3f"),
        estimate(Estimate(**figures["perplexity"]), ".3f"),
        number(paper.get("perplexity"), ".2f"),
        estimate(figures["behind_full"] and Estimate(**figures["behind_full"]), "+.4f"),
        figures["schedule"],
    ]


def _substitutability(rows: list[Row]) -> list[str]:
    """The binary rows side by side: the same total memory in different layers."""
    binary = [row for row in rows if row.name.startswith("binary, ") and row.schedule.rule == "segment"]
    if len(binary) < 2:
        return []
    best, worst = binary[0], binary[-1]
    lines = [
        [
            row.name,
            ", ".join(str(layer) for layer, h in enumerate(row.schedule.horizons, 1) if h != 0),
            f"{row.schedule.budget_tokens:,}",
            estimate(row.perplexity, ".3f"),
            "" if row is best else estimate(row.behind(best), "+.4f"),
        ]
        for row in binary
    ]
    parts = [
        "## Can one layer stand in for another?",
        "The same total memory in different layers.",
        as_table(
            ("row", "layers that remember", "tokens in all", "perplexity", f"nats/token behind {best.name}"), lines
        ),
    ]
    difference, (worse, seeds) = worst.behind(best), worst.seeds_behind(best)
    if difference is not None and difference.spread:
        parts.append(
            f"The worst of them is {difference.mean:.4f} nats/token behind the best, "
            f"{difference.mean / difference.spread:.1f} times the standard error over pieces; it is the worse of the "
            f"two with {worse} of {seeds} seeds."
        )
    return parts


def _material_table(rows: list[Row]) -> str:
    counts = {kind: rows[0].runs[0]["material"][kind]["tokens"] for kind in ("returning", "new")}
    lines = [[row.name, *(estimate(row.on_material(kind), ".4f") for kind in counts)] for row in rows]
    return as_table(("row", *(f"{kind} ({count:,} tokens)" for kind, count in counts.items())), lines)


def _cuts_table(rows: list[Row]) -> str:
    by_row = [{most: nats for most, _, nats in row.when_cut()} for row in rows]
    cuts = sorted({most for found in by_row for most in found})
    lines = [
        [row.name, *(estimate(found.get(most), ".4f") for most in cuts), estimate(row.nats_per_token, ".4f")]
        for row, found in zip(rows, by_row)
    ]
    return as_table(("row", *(f"{most:,}" for most in cuts), "as trained"), lines)
