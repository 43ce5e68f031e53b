"""What a schedule costs: state bytes, attention FLOPs and reach, side by side.

Attention FLOPs are those of the forward pass that depend on the horizons. For every key that a query sees, a layer
multiplies and adds ``width`` numbers for the score and ``width`` again for the weighted sum of values: 2 x 2 x width
FLOPs. (A third of the 12 x width per key in PaLM's appendix B, arXiv 2204.02311, which counts the backward pass too.)
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from ritornello.horizons.schedule import HorizonSchedule, key_value_bytes
from ritornello.horizons.visibility import Rule

BYTES_PER_NUMBER = {"fp32": 4, "bf16": 2, "int8": 1}


@dataclass(frozen=True)
class Costs:
    budget_tokens: int | None
    """None: some layer is unlimited"""
    state_bytes: dict[str, int]
    """per lane, by precision, at a segment's start; where a layer is unlimited, after the piece"""
    attention_flops_per_token: float
    """mean over a whole piece, read from its first token"""
    full_attention_flops_per_token: float | None
    """mean over a segment once the horizons are full; None: some layer is unlimited"""
    reach_tokens: int | None
    """None: the whole piece"""


def costs_of(schedule: HorizonSchedule, *, width: int, segment_tokens: int, piece_tokens: int) -> Costs:
    """The costs of a schedule in a model of ``width`` that reads pieces of ``piece_tokens``."""
    held = schedule.after(piece_tokens).budget_tokens or 0

    def flops(length: int | None) -> float:
        seen = {
            h: mean_keys_seen(h, rule=schedule.rule, segment_tokens=segment_tokens, piece_tokens=length)
            for h in set(schedule.horizons)
        }
        return key_flops(sum(seen[horizon] for horizon in schedule.horizons), width=width)

    return Costs(
        budget_tokens=schedule.budget_tokens,
        state_bytes={
            name: key_value_bytes(held, width=width, bytes_per_number=size) for name, size in BYTES_PER_NUMBER.items()
        },
        attention_flops_per_token=flops(piece_tokens),
        full_attention_flops_per_token=None if None in schedule.horizons else flops(None),
        reach_tokens=schedule.reach_tokens(segment_tokens=segment_tokens),
    )


def key_flops(keys: float, *, width: int) -> float:
    """Of the forward pass of one query and layer that sees so many keys."""
    return 4 * width * keys


def mean_keys_seen(horizon: int | None, *, rule: Rule, segment_tokens: int, piece_tokens: int | None) -> float:
    """How many keys a query sees in the mean, by the formula of `visible`.

    At phase p of its segment a query sees p + 1 + H keys (segment rule) or max(p, H) + 1 (sliding rule), but never more
    than the piece has had so far. The mean is over a piece from its start; with ``piece_tokens`` None it is over a
    segment far into a piece, (S + 1) / 2 + H by the segment rule.

    Raises:
        ValueError: for an unlimited horizon in an endless piece.
    """
    if horizon is None:
        if piece_tokens is None:
            raise ValueError("an unlimited horizon is never full")
        return (piece_tokens + 1) / 2
    query = np.arange(segment_tokens if piece_tokens is None else piece_tokens)
    phase = query % segment_tokens
    before = phase + horizon if rule == "segment" else np.maximum(phase, horizon)
    return float(np.mean((before if piece_tokens is None else np.minimum(before, query)) + 1))
