"""Tables of a study in Markdown, and how figures stand in their cells."""

from __future__ import annotations

from typing import Any

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


def repeat_tables(rows: list[Row]) -> list[str]:
    """What hearing a passage again is worth by the gap before it, and nats/token by the age of what returns."""
    parts = []
    # Older runs have neither: their cells are empty.
    if gaps := max((row.repeats() for row in rows), key=len):
        lines = [_padded([row.name, *(estimate(gain, "+.3f") for *_, gain in row.repeats())], gaps) for row in rows]
        parts += [
            "The repeat test: by how many nats/token a passage of 160 tokens is foreseen better when it is played "
            "again after a gap of so many tokens (pieces). ± is the standard error over pieces.",
            as_table(("row", *(f"{gap:,} ({pieces})" for gap, pieces, _ in gaps)), lines),
        ]
    if ages := max((row.by_age() for row in rows), key=len):
        lines = [_padded([row.name, *(estimate(nats, ".4f") for *_, nats in row.by_age())], ages) for row in rows]
        parts += [
            "Nats/token by how many tokens ago a passage of eight notes was played last.",
            as_table(("row", *(f"{_age(low, high)} ({count:,} tokens)" for low, high, count, _ in ages)), lines),
        ]
    return parts


def _padded(cells: list[str], columns: list[Any]) -> list[str]:
    return cells + [""] * (1 + len(columns) - len(cells))


def _age(low: int | None, high: int | None) -> str:
    if low is None:
        return "never"
    return f"{low:,} to {high:,}" if high else f"{low:,} on"
