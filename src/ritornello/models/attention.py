"""Attention over what a layer remembers and the chunk it reads, in three ways that compute the same.

``plain`` is the reference: one dense mask from the visibility rule. ``tiled`` is the CPU's way in full precision: it
works through the keys in tiles that stay in the cache, leaves out every tile and every query that sees nothing of it,
and computes no gradient for memories that are detached (two of the backward pass's five products). ``flex`` is CUDA's:
FlexAttention, whose block masks skip what nobody sees.

Softmax over tiles: FlashAttention, arXiv 2205.14135, section 3.1, and its backward pass, appendix B.2.
Axes: B lanes, H heads, T queries, M remembered keys, K = M + T keys, D head size, N = H x lanes of a group, R rows of
queries and C keys of a tile.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cache, lru_cache
from itertools import groupby
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

from ritornello.horizons import Rule, visible

TILE_NUMBERS = 1 << 20  # scores computed at a time: 4 MB, still in the cache when they are used again
MIN_TILE_KEYS, MAX_TILE_KEYS = 64, 1024


class Tile(NamedTuple):
    """A block of scores that are not all masked."""

    keys: slice  # of the memory, or of the chunk
    queries: slice
    seen: Tensor | None  # (R, C) bool; None = all


class Group(NamedTuple):
    """Neighbouring lanes whose queries see alike: they are computed together."""

    lanes: slice
    of_chunk: tuple[Tile, ...]
    of_memory: tuple[Tile, ...]


@dataclass(frozen=True)
class Sight:
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

    def groups(self, heads: int) -> list[Group]:
        """The work of `tiled`, lane by lane or for several at once."""
        groups, lane = [], 0
        for position, run in groupby(self._folded()):
            lanes = slice(lane, lane := lane + len(list(run)))
            rows = (lanes.stop - lanes.start) * heads * self.queries
            tile_keys = max(MIN_TILE_KEYS, min(MAX_TILE_KEYS, TILE_NUMBERS // rows // 64 * 64))
            chunk, memory = _tiles(tile_keys, position, *self._shape)
            groups.append(Group(lanes, chunk, memory))
        return groups

    def block_mask(self, device: torch.device) -> Any:
        """FlexAttention's form of `mask`."""
        return _block_mask(device, tuple(self._folded()), *self._shape)

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
    """The way to attend for queries of this kind and on this device."""
    if q.is_cuda:
        return flex
    return tiled if q.dtype in (torch.float32, torch.float64) and q.shape[2] > 1 else plain


Attention = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor, Sight], Tensor]
"""(q, k, v, memory_k, memory_v, sight) -> what the queries find; q, k, v are (B, H, T, D), memories (B, H, M, D)."""


def plain(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, sight: Sight) -> Tensor:
    """The reference: every score, and a dense mask. (B, H, T, D)."""
    seen = sight.mask(q.device)
    k, v = _joined(memory_k, k), _joined(memory_v, v)
    return F.scaled_dot_product_attention(q, k, v, attn_mask=None if bool(seen.all()) else seen)


def flex(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, sight: Sight) -> Tensor:
    """FlexAttention, compiled on CUDA. (B, H, T, D)."""
    from torch.nn.attention.flex_attention import flex_attention

    attend: Any = compiled(flex_attention) if q.is_cuda else flex_attention
    found: Tensor = attend(q, _joined(memory_k, k), _joined(memory_v, v), block_mask=sight.block_mask(q.device))
    return found


def tiled(q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, sight: Sight) -> Tensor:
    """Tile by tile, on a CPU. (B, H, T, D)."""
    found: Tensor = _Tiled.apply(q, k, v, memory_k.to(k.dtype), memory_v.to(v.dtype), sight)
    return found


class _Tiled(torch.autograd.Function):
    """Exact attention with gradients for all that needs them."""

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, sight: Sight) -> Tensor:
        q, k, v, memory_k, memory_v = (x.contiguous() for x in (q * q.shape[-1] ** -0.5, k, v, memory_k, memory_v))
        groups = sight.groups(q.shape[1])
        found, evidence = torch.empty_like(q), q.new_empty(*q.shape[:3], 1)
        scratch = _scratch(q, groups)
        for lanes, of_chunk, of_memory in groups:
            rows, out = _rows(q, lanes), _rows(found, lanes).zero_()
            peak, total = rows.new_full((*rows.shape[:2], 1), -torch.inf), rows.new_zeros((*rows.shape[:2], 1))
            # The chunk first: every query sees its first tile, so that from then on every peak is finite.
            for keys, values, tiles in (
                (_rows(k, lanes), _rows(v, lanes), of_chunk),
                (_rows(memory_k, lanes), _rows(memory_v, lanes), of_memory),
            ):
                for at, queries, seen in tiles:
                    scores = _scores(rows[:, queries], keys[:, at], seen, scratch)
                    old = peak[:, queries]
                    new = torch.maximum(old, scores.amax(-1, keepdim=True))
                    shrink = (old - new).exp_()
                    weights = scores.sub_(new).exp_()
                    total[:, queries] = total[:, queries].mul_(shrink).add_(weights.sum(-1, keepdim=True))
                    out[:, queries].mul_(shrink).baddbmm_(weights, values[:, at])
                    peak[:, queries] = new
            out.div_(total)
            _rows(evidence, lanes).copy_(total.log_().add_(peak))
        ctx.save_for_backward(q, k, v, memory_k, memory_v, found, evidence)
        ctx.groups = groups
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, memory_k, memory_v, found, evidence = ctx.saved_tensors
        grad = grads[0].contiguous()
        shift = (grad * found).sum(-1, keepdim=True)
        grad_q, grad_k, grad_v = torch.zeros_like(q), torch.empty_like(k), torch.empty_like(v)
        # Of a memory some keys may be seen by nobody.
        grad_memory = (
            (torch.zeros_like(memory_k), torch.zeros_like(memory_v)) if any(ctx.needs_input_grad[3:5]) else None
        )
        scratch, more = _scratch(q, ctx.groups), _scratch(q, ctx.groups)
        for lanes, of_chunk, of_memory in ctx.groups:
            rows, d_out, d_rows = _rows(q, lanes), _rows(grad, lanes), _rows(grad_q, lanes)
            log_total, delta = _rows(evidence, lanes), _rows(shift, lanes)
            for keys, values, tiles, grads_here in (
                (_rows(k, lanes), _rows(v, lanes), of_chunk, (grad_k, grad_v)),
                (_rows(memory_k, lanes), _rows(memory_v, lanes), of_memory, grad_memory),
            ):
                for at, queries, seen in tiles:
                    weights = _scores(rows[:, queries], keys[:, at], seen, scratch).sub_(log_total[:, queries]).exp_()
                    d_scores = _product(d_out[:, queries], values[:, at], more)
                    d_scores = d_scores.sub_(delta[:, queries]).mul_(weights)
                    d_rows[:, queries].baddbmm_(d_scores, keys[:, at])
                    if grads_here is not None:
                        torch.bmm(d_scores.mT, rows[:, queries], out=_rows(grads_here[0], lanes)[:, at])
                        torch.bmm(weights.mT, d_out[:, queries], out=_rows(grads_here[1], lanes)[:, at])
        return grad_q.mul_(q.shape[-1] ** -0.5), grad_k, grad_v, *(grad_memory or (None, None)), None


def _rows(x: Tensor, lanes: slice) -> Tensor:
    """(B, H, X, D) -> a view of some lanes, (N, X, D)."""
    return x[lanes].flatten(0, 1)


def _scores(rows: Tensor, keys: Tensor, seen: Tensor | None, scratch: Tensor) -> Tensor:
    scores = _product(rows, keys, scratch)
    return scores if seen is None else scores.masked_fill_(~seen, -torch.inf)


def _product(a: Tensor, b: Tensor, scratch: Tensor) -> Tensor:
    """(N, R, D) times (N, C, D) -> (N, R, C), in memory that is used again and again."""
    shape = (a.shape[0], a.shape[1], b.shape[1])
    return torch.bmm(a, b.mT, out=scratch[: shape[0] * shape[1] * shape[2]].view(shape))


def _scratch(q: Tensor, groups: list[Group]) -> Tensor:
    heads = q.shape[1]
    return q.new_empty(
        max(
            (group.lanes.stop - group.lanes.start)
            * heads
            * (tile.queries.stop - tile.queries.start)
            * (tile.keys.stop - tile.keys.start)
            for group in groups
            for tile in group.of_chunk + group.of_memory
        )
    )


@lru_cache(maxsize=4096)
def _tiles(
    tile_keys: int, position: int, queries: int, memories: int, horizon: int | None, segment_tokens: int, rule: Rule
) -> tuple[tuple[Tile, ...], tuple[Tile, ...]]:
    """Tiles of the chunk and of the memory, for a lane that stands at a position."""
    query = position + torch.arange(queries)

    def tiles(first_key: int, keys: int) -> tuple[Tile, ...]:
        found = []
        # From the latest key back: a memory's oldest tile is the odd one.
        for stop in range(keys, 0, -tile_keys):
            start = max(0, stop - tile_keys)
            key = first_key + torch.arange(start, stop)
            seen = visible(query[:, None], key, horizon=horizon, segment_tokens=segment_tokens, rule=rule)
            rows, columns = seen.any(1).nonzero(), seen.any(0).nonzero()
            if len(rows):
                by = slice(int(rows[0]), int(rows[-1]) + 1)
                at = slice(int(columns[0]), int(columns[-1]) + 1)
                block = seen[by, at]
                found.append(Tile(slice(start + at.start, start + at.stop), by, None if block.all() else block))
        return tuple(found)

    return tiles(position, queries)[::-1], tiles(position - memories, memories)


@lru_cache(maxsize=256)
def _block_mask(
    device: torch.device,
    positions: tuple[int, ...],
    queries: int,
    memories: int,
    horizon: int | None,
    segment_tokens: int,
    rule: Rule,
) -> Any:
    from torch.nn.attention.flex_attention import create_block_mask

    position = torch.tensor(positions, device=device)

    def seen(lane: Tensor, _: Tensor, query: Tensor, key: Tensor) -> Any:
        start = position[lane]
        return visible(start + query, start + key - memories, horizon=horizon, segment_tokens=segment_tokens, rule=rule)

    return create_block_mask(seen, len(positions), None, queries, memories + queries, device=str(device))


@cache
def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """A function compiled for the shapes that it meets, once for all blocks and models."""
    torch._dynamo.config.recompile_limit = 64  # a study's horizons, growing memories, with gradients and without
    fast: Callable[..., Any] = torch.compile(function, dynamic=False)
    return fast


def _joined(memory: Tensor, new: Tensor) -> Tensor:
    return torch.cat([memory.to(new.dtype), new], dim=2) if memory.shape[2] else new
