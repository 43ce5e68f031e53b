"""The training and recall studies as Markdown: what each choice is worth at equal tokens, alone."""

from __future__ import annotations

from typing import Any

from ritornello.studies.cells import as_table, estimate, interval, number, repeat_tables
from ritornello.studies.conditions import choices_conditions
from ritornello.studies.intervals import Interval, behind, behind_by_seed
from ritornello.studies.results import Result
from ritornello.studies.summary import UNCHANGED, Estimate, Row, rows_by_name

HEADER = (
    "row",
    "nats/token behind unchanged",
    "the same by seed",
    "nats/token",
    "tokens/s / unchanged",
    "parameters",
)


def rows_of(results: list[Result]) -> list[Row]:
    """From the best to the worst."""
    return sorted(rows_by_name(results), key=lambda row: row.nats_per_token.mean)


def markdown(results: list[Result]) -> str:
    """The whole report of the runs that there are."""
    rows = rows_of(results)
    parts = ["## What each choice is worth", as_table(HEADER, cells(results)), *repeat_tables(rows)]
    parts.append(choices_conditions(rows))
    return "\n\n".join(parts) + "\n"


def cells(results: list[Result]) -> list[list[str]]:
    """The table below `HEADER`."""
    return [_line(found) for found in figures(results)]


def figures(results: list[Result]) -> list[dict[str, Any]]:
    """Each row's figures, and how far it is behind the unchanged recipe, as JSON-able values."""
    rows = rows_of(results)
    unchanged = next((row for row in rows if row.name == UNCHANGED), None)
    return [_figures_of(row, unchanged) for row in rows]


def _figures_of(row: Row, unchanged: Row | None) -> dict[str, Any]:
    other = unchanged if unchanged is not row else None
    more = behind(row, other, "by_piece") if other else None
    theirs = unchanged.tokens_per_s if unchanged else None
    return {
        "row": row.name,
        "recipe": row.runs[0]["recipe"],
        "parameters": row.runs[0]["parameters"],
        "seeds": row.seeds,
        "nats_per_token": row.nats_per_token._asdict(),
        "behind_unchanged": more and more._asdict(),
        "behind_unchanged_by_seed": behind_by_seed(row, other, "by_piece") if other else [],
        "tokens_per_s": row.tokens_per_s,
        "tokens_per_s_ratio": row.tokens_per_s / theirs if row.tokens_per_s and theirs else None,
    }


def _line(found: dict[str, Any]) -> list[str]:
    more = found["behind_unchanged"]
    return [
        found["row"],
        interval(more and Interval(**more), "+.4f"),
        ", ".join(f"{value:+.4f}" for value in found["behind_unchanged_by_seed"]),
        estimate(Estimate(**found["nats_per_token"]), ".4f"),
        number(found["tokens_per_s_ratio"], ".2f"),
        f"{found['parameters']:,}",
    ]
