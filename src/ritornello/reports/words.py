"""Figures and verdicts as the terminal and the page both write them."""

from __future__ import annotations

from ritornello.reports.comparing import Result


def figure(value: float) -> str:
    """Three digits that count, the digits before the point always whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def widths(result: Result) -> str:
    """By how many of the null band's widths an overlap lies below it; a band without width makes any number large."""
    below = result.figures["verdict"]["widths_below"]
    return "over 100" if below > 100 else f"{below:.1f}"


def verdict(result: Result) -> str:
    """``inside``, or `widths` below."""
    return "inside" if result.inside else f"{widths(result)} widths below"
