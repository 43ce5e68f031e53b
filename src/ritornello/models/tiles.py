"""Exact attention on a CPU, part by part: no key is copied, and few are multiplied that nobody sees.

Torch's flash kernel attends to a chunk and its memory in a few parts, which are joined by their sums of weights. For
memories that are detached no gradient is computed (two of the backward pass's five products), and they may be in
bfloat16 where all else is in float32.

Softmax over tiles: FlashAttention, arXiv 2205.14135, section 3.1, and its backward pass, appendix B.2.
Axes: B lanes, H heads, T queries, M remembered keys, D head size, R rows of queries and C keys of a part.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import cache, lru_cache
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from ritornello.horizons import Rule, visible

TILE_NUMBERS = 1 << 18  # scores of a lane computed at a time backwards: 1 MB, still in the cache when used again
MIN_TILE_KEYS, MAX_TILE_KEYS = 64, 1024
BLOCK_TOKENS = 256  # of a chunk, which are computed under a causal mask, half of it for nobody
MASKED_KEYS = 128  # of a part that is masked; the wider, the more scores are computed for nobody


class Part(NamedTuple):
    """Remembered keys and the queries that see any of them."""

    keys: slice
    queries: slice
    seen: Tensor | None  # (R, C) bool; None = all


class Group(NamedTuple):
    """Neighbouring lanes whose queries see alike: they are computed together."""

    lanes: slice
    memory: tuple[Part, ...]


# With the logarithms of the sums of weights, which scaled_dot_product_attention keeps to itself. These are operators of
# torch's own, not of its promised interface: a torch that has lost them is served by ``plain``.
_flash: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu", None)
_flash_backward: Any = getattr(torch.ops.aten, "_scaled_dot_product_flash_attention_for_cpu_backward", None)
AVAILABLE = _flash is not None and _flash_backward is not None


class Tiled(torch.autograd.Function):
    """Exact attention with gradients for all that needs them.

    Of its chunk a query sees itself and what is before, under any rule: a chunk lies within a segment. Two parts with
    outputs o, p and log sums of weights a, b are together o + (p - o) sigmoid(b - a), with log(exp(a) + exp(b)).
    """

    @staticmethod
    def forward(
        ctx: Any, q: Tensor, k: Tensor, v: Tensor, memory_k: Tensor, memory_v: Tensor, groups: list[Group]
    ) -> Tensor:
        blocks, earlier = chunk_parts(q.shape[2])
        chunk = [Group(slice(0, len(q)), earlier)]
        by_blocks = _flash(*(_blocks(x, blocks) for x in (q, k, v)), 0.0, True)
        attended, logsumexp = (_joined_blocks(x, blocks) for x in by_blocks)
        for parts, keys, values in (chunk, k, v), (groups, memory_k, memory_v):
            for part, rows, columns in _places(parts):
                part_q, bias = q[rows].to(keys.dtype), _bias(part.seen, keys)
                more, weight = _flash(part_q, keys[columns], values[columns], attn_mask=bias)
                so_far = logsumexp[rows]
                attended[rows].lerp_(more.to(q.dtype), torch.sigmoid(weight - so_far)[..., None])
                so_far.copy_(torch.logaddexp(so_far, weight))
        ctx.save_for_backward(q, k, v, memory_k, memory_v, attended, logsumexp)
        ctx.blocks, ctx.chunk, ctx.groups = blocks, chunk, groups
        return attended

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        q, k, v, memory_k, memory_v, attended, logsumexp = ctx.saved_tensors
        grad = grads[0]
        by_blocks = _flash_backward(*(_blocks(x, ctx.blocks) for x in (grad, q, k, v, attended, logsumexp)), 0.0, True)
        grad_q, grad_k, grad_v = (_joined_blocks(x, ctx.blocks) for x in by_blocks)
        work = [(ctx.chunk, k, v, grad_k, grad_v)]
        grad_memory = None
        if any(ctx.needs_input_grad[3:5]):
            grad_memory = torch.zeros_like(memory_k), torch.zeros_like(memory_v)
            work.append((ctx.groups, memory_k, memory_v, *grad_memory))
        else:
            _add_through_memory(grad_q, grad, q, memory_k, memory_v, attended, logsumexp, ctx.groups)
        for groups, keys, values, grad_keys, grad_values in work:
            for part, rows, columns in _places(groups):
                d_q, d_k, d_v = _flash_backward(
                    *(grad[rows], q[rows], keys[columns], values[columns], attended[rows], logsumexp[rows], 0.0, False),
                    attn_mask=_bias(part.seen, q),
                )
                grad_q[rows].add_(d_q)
                grad_keys[columns].add_(d_k)
                grad_values[columns].add_(d_v)
        return grad_q, grad_k, grad_v, *(grad_memory or (None, None)), None


def _places(groups: list[Group]) -> Iterator[tuple[Part, Any, Any]]:
    """Every part of every group, with the indices of its queries and of its keys."""
    for lanes, parts in groups:
        for part in parts:
            yield part, (lanes, slice(None), part.queries), (lanes, slice(None), part.keys)


def _blocks(x: Tensor, blocks: int) -> Tensor:
    """(B, H, T, ...) -> (B x blocks, H, T / blocks, ...), blocks of a chunk as lanes."""
    return x.unflatten(2, (blocks, -1)).transpose(1, 2).flatten(0, 1)


def _joined_blocks(x: Tensor, blocks: int) -> Tensor:
    """The inverse of `_blocks`."""
    return x.unflatten(0, (-1, blocks)).transpose(1, 2).flatten(2, 3)


@cache
def chunk_parts(queries: int) -> tuple[int, tuple[Part, ...]]:
    """Into how many blocks a chunk is cut, each of which sees itself causally, and what each sees of those before."""
    blocks = queries // BLOCK_TOKENS if queries % BLOCK_TOKENS == 0 else 1
    starts = range(BLOCK_TOKENS, queries, BLOCK_TOKENS) if blocks > 1 else ()
    return blocks, tuple(Part(slice(0, start), slice(start, start + BLOCK_TOKENS), None) for start in starts)


def _add_through_memory(
    grad_q: Tensor,
    grad: Tensor,
    q: Tensor,
    memory_k: Tensor,
    memory_v: Tensor,
    attended: Tensor,
    logsumexp: Tensor,
    groups: list[Group],
) -> None:
    """Adds to the gradient of the queries what comes through detached memories, lane by lane in tiles of keys."""
    _, heads, length, size = q.shape
    tile_keys = max(MIN_TILE_KEYS, min(MAX_TILE_KEYS, TILE_NUMBERS // (heads * length) // 64 * 64))
    scale = size**-0.5
    shift = (grad * attended).sum(-1, keepdim=True)
    scaled, grad = (q * scale).contiguous(), grad.contiguous()  # rows side by side
    log_total = logsumexp[..., None]
    weights, d_weights = (q.new_empty(heads * length * tile_keys) for _ in range(2))
    for lanes, memory in groups:
        for lane in range(lanes.start, lanes.stop):
            for keys, queries, seen in memory:
                rows, d_out = scaled[lane, :, queries], grad[lane, :, queries]
                d_rows = torch.zeros(rows.shape, dtype=q.dtype)
                for start in range(keys.start, keys.stop, tile_keys):
                    at = slice(start, min(start + tile_keys, keys.stop))
                    some_k, some_v = (x[lane, :, at].to(q.dtype) for x in (memory_k, memory_v))
                    scores = _product(rows, some_k, weights)
                    if seen is not None:
                        scores.masked_fill_(~seen[:, at.start - keys.start : at.stop - keys.start], -torch.inf)
                    scores.sub_(log_total[lane, :, queries]).exp_()
                    d_scores = _product(d_out, some_v, d_weights).sub_(shift[lane, :, queries]).mul_(scores)
                    d_rows.baddbmm_(d_scores, some_k)
                grad_q[lane, :, queries].add_(d_rows, alpha=scale)


def _product(a: Tensor, b: Tensor, scratch: Tensor) -> Tensor:
    """(H, R, D) times (H, C, D) -> (H, R, C), in memory that is used again and again."""
    shape = (a.shape[0], a.shape[1], b.shape[1])
    return torch.bmm(a, b.mT, out=scratch[: shape[0] * shape[1] * shape[2]].view(shape))


def _bias(seen: Tensor | None, like: Tensor) -> Tensor | None:
    return None if seen is None else torch.zeros(seen.shape, dtype=like.dtype).masked_fill_(~seen, -torch.inf)


@lru_cache(maxsize=4096)
def memory_parts(
    position: int, queries: int, memories: int, horizon: int | None, segment_tokens: int, rule: Rule
) -> tuple[Part, ...]:
    """What a lane at a position sees of its memory: what all queries see, and in narrow parts what only some do."""
    query, key = position + torch.arange(queries), position - memories + torch.arange(memories)
    seen = visible(query[:, None], key, horizon=horizon, segment_tokens=segment_tokens, rule=rule)
    # From some key on a query sees all of the memory.
    unseen = memories - seen.sum(1)
    first, full = int(unseen.min()), int(unseen.max())
    parts = [Part(slice(full, memories), slice(0, queries), None)] if full < memories else []
    for start in range(first, full, MASKED_KEYS):
        stop = min(start + MASKED_KEYS, full)
        block = seen[:, start:stop]
        rows = block.any(1).nonzero()
        by = slice(int(rows[0]), int(rows[-1]) + 1)
        parts.append(Part(slice(start, stop), by, None if block[by].all() else block[by].clone()))
    return tuple(parts)
