"""Figures and verdicts as the terminal and the page both write them."""

from __future__ import annotations

from ritornello.reports.results import Result


def figure(value: float) -> str:
    """Three digits that count, the digits before the point always whole."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def widths(result: Result) -> str:
    """By how many of its band's widths the score furthest outside lies outside."""
    return f"{result.widths:.1f}"


def verdict(result: Result) -> str:
    """``inside``, or `widths` outside."""
    return "inside" if result.inside else f"{widths(result)} widths outside"
