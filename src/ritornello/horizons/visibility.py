"""What a query sees: the one rule of the whole project, used to train, evaluate, prompt and step."""

from __future__ import annotations

from typing import Any, Literal

Rule = Literal["segment", "sliding"]


def visible(query: Any, key: Any, *, horizon: int | None, segment_tokens: int, rule: Rule = "segment") -> Any:
    """Whether the query at a position sees the key at another.

    Args:
        query: positions in the piece, an int or a signed integer array of NumPy or torch.
        key: the same, broadcastable against ``query``. Negative positions belong to no piece and are never seen.
        horizon: H_l of the layer; None = unlimited.
        segment_tokens: S.
        rule: see `HorizonSchedule`.

    Returns:
        bool, of the broadcast shape: ``first(query) <= key <= query`` with ``start = query // S * S`` and
        ``first = start - H`` (segment rule) or ``min(start, query - H)`` (sliding rule).
    """
    seen = (key <= query) & (key >= 0)
    if horizon is None:
        return seen
    start = query // segment_tokens * segment_tokens
    if rule == "segment":
        return seen & (key >= start - horizon)
    return seen & ((key >= start) | (key >= query - horizon))
