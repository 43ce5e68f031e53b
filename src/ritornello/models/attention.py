"""Attention over what a layer remembers and the chunk it reads, in two ways that compute the same.

``plain`` is the reference: one dense mask from the visibility rule. ``tiled`` is the CPU's way: see ``tiles``. How a
GPU trains is a third, see ``training/fast.py``.

Axes: B lanes, H heads, T queries, M remembered keys, K = M + T keys, D head size.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import groupby
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ritornello.horizons import Rule, visible
from ritornello.models import tiles
from ritornello.models.tiles import Group, Tiled, memory_parts


@dataclass(frozen=True)
class AttentionSpan:
    """What the queries of one chunk see, in one layer. Key j of K stands at ``position - M + j``."""

    position: Tensor
    """(B,) int64 on the CPU: where each lane's first query stands"""
    queries: int
    """T; none of them lies beyond the segment of the lane's first"""
    memories: int
    """M"""
    horizon: int | None
    segment_tokens: int
    rule: Rule

    def mask(self, device: torch.device) -> Tensor:
        """(B, 1, T, K) bool."""
        query = (self.position[:, None] + torch.arange(self.queries)).to(device)
        key = query[:, :1] - self.memories + torch.arange(self.memories + self.queries, device=device)
        seen: Tensor = self._visible(query[:, :, None], key[:, None, :])
        return seen[:, None]

    def groups(self) -> list[Group]:
        """What is seen of the memories, lane by lane or of several at once."""
        groups, lane = [], 0
        for position, run in groupby(self._folded()):
            lanes = slice(lane, lane := lane + len(list(run)))
            groups.append(Group(lanes, memory_parts(position, *self._shape)))
        return groups

    @property
    def _shape(self) -> tuple[int, int, int | None, int, Rule]:
        return self.queries, self.memories, self.horizon, self.segment_tokens, self.rule

    def _folded(self) -> list[int]:
        """Per lane, a small position with the same view: once all its memory lies in the piece, the phase decides.

        So lanes far from their starts are computed together, and what was planned for one segment serves the next.
        """
        phase = self.position % self.segment_tokens
        far = -(-self.memories // self.segment_tokens) * self.segment_tokens + phase
        return torch.minimum(self.position, far).tolist()

    def _visible(self, query: Any, key: Any) -> Any:
        return visible(query, key, horizon=self.horizon, segment_tokens=self.segment_tokens, rule=self.rule)


def fastest(q: Tensor) -> Attention:
    """The way to attend for so many queries and on this device."""
    return tiled if q.device.type == "cpu" and q.shape[2] > 1 and tiles.AVAILABLE else plain


Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, AttentionSpan], Tensor]
"""(q, k, v, memory_k, memory_v, span) -> what the queries find; q, k, v are (B, H, T, D), memories (B, H, M, D)."""


def plain(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, span: AttentionSpan) -> Tensor:
    """The reference: every score, and a dense mask. (B, H, T, D)."""
    seen = span.mask(q.device)
    k, v = _joined(memory_k, k), _joined(memory_v, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bool(seen.all()) else seen)


def tiled(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, span: AttentionSpan) -> Tensor:
    """Part by part, on a CPU. (B, H, T, D). All but detached memories is widened to float32 where it is less."""
    wide = torch.promote_types(q.dtype, torch.float32)
    memories = (x.to(wide if x.requires_grad else q.dtype) for x in (memory_k, memory_v))
    attended: Tensor = Tiled.apply(q.to(wide), k.to(wide), v.to(wide), *memories, span.groups())
    return attended.to(q.dtype)


def _joined(memory: Tensor, new: Tensor) -> Tensor:
    return torch.cat([memory.to(new.dtype), new], dim=2) if memory.shape[2] else new
