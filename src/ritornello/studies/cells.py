"""Tables of a study in Markdown, and how figures stand in their cells."""

from __future__ import annotations

from ritornello.studies.intervals import Interval
from ritornello.studies.summary import Estimate, Row


def as_table(header: tuple[str, ...], lines: list[list[str]]) -> str:
    """A table; the first column to the left, the others to the right."""
    rule = ["---"] + ["---:"] * (len(header) - 1)
    return "\n".join(f"| {' | '.join(line)} |" for line in [header, rule, *lines])


def number(value: float | None, form: str) -> str:
    """A figure, or nothing where there is none."""
    return "" if value is None else f"{value:{form}}"


def estimate(value: Estimate | None, form: str) -> str:
    """A figure with how far it may be off, or nothing."""
    if value is None:
        return ""
    return f"{value.mean:{form}}" + ("" if value.spread is None else f" ± {value.spread:{form.lstrip('+')}}")


def interval(value: Interval | None, form: str) -> str:
    """A figure with where it would lie otherwise, or nothing."""
    return "" if value is None else f"{value.mean:{form}} [{value.low:{form}}, {value.high:{form}}]"


def position_table(rows: list[Row]) -> str:
    """Nats/token by position in the piece, as the runs' evaluations have it."""
    bins = rows[0].by_position()
    lines = [[row.name, *(f"{nats.mean:.4f}" for _, _, nats in row.by_position())] for row in rows]
    return as_table(("row", *(f"{low:,} to {high:,}" if high else f"{low:,} on" for low, high, _ in bins)), lines)
