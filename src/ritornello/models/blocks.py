"""What the models are made of: pre-norm branches, rotary positions, and memories of keys.

RMS norm (arXiv 1910.07467), rotary positions (arXiv 2104.09864) counted from the piece's start, normalised queries and
keys (arXiv 2010.04245), a SiLU-gated MLP (arXiv 2002.05202). Keys are kept rotated: rotation depends on differences of
positions only, so a key is rotated once and attended to for as long as it is remembered.

Axes: B lanes, T new tokens, M remembered tokens, K = M + T keys, H heads, D head size, C = H x D width.
"""

from __future__ import annotations

from collections.abc import Iterable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ritornello.models.config import EPSILON, ROTARY_BASE, AttentionConfig

Rotation = tuple[Tensor, Tensor]  # cosines and sines (B, 1, T, D / 2)


class Layer(nn.Module):
    """What every layer does with what its queries attended to: it is added to the residual stream, and so is an MLP."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__()
        width, mlp_width, heads = config.width, config.mlp_width, config.heads
        self.heads = heads
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * mlp_width, bias=False)
        self.down = nn.Linear(mlp_width, width, bias=False)
        self.qk_scale = nn.Parameter(torch.full((heads, 1, 1), 2.0 if config.qk_bias else 1.0))  # of normalised queries
        self.qk_bias = nn.Parameter(near_bias(width, heads)) if config.qk_bias else None
        self.attention_gain = nn.Parameter(torch.ones(width))
        self.mlp_gain = nn.Parameter(torch.ones(width))
        self.dropout = nn.Dropout(config.dropout)

    def update(self, x: Tensor, attended: Tensor) -> Tensor:
        """Adds what the queries attended to (B, H, T, D) and what the MLP makes of it to the stream (B, T, C)."""
        x = x + self.dropout(self.out(attended.transpose(1, 2).flatten(2)))
        return x + self.dropout(self.down(swiglu(self.gate_up(norm(x, self.mlp_gain)))))

    def biased(self, x: Tensor, part: int) -> Tensor:
        """Queries (part 0) or keys (part 1), (B, H, T, D), with their bias."""
        return x if self.qk_bias is None else x + self.qk_bias[part]

    def split(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, H, T, D)."""
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)


class Block(Layer):
    """Self-attention: queries, keys and values of the same stream."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.qkv = nn.Linear(config.width, 3 * config.width, bias=False)

    def project(self, x: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> queries, keys, values, each (B, H, T, D), queries and keys rotated to their positions."""
        q, k, v = (self.split(part) for part in self.qkv(norm(x, self.attention_gain)).chunk(3, dim=-1))
        q, k = self.biased(q, 0), self.biased(k, 1)
        return (rotate(norm(q), rotation) * self.qk_scale).to(v.dtype), rotate(norm(k), rotation).to(v.dtype), v


class CrossAttention(Layer):
    """Cross-attention: queries of the stream, keys and values of embedded tokens."""

    def __init__(self, config: AttentionConfig) -> None:
        super().__init__(config)
        self.q = nn.Linear(config.width, config.width, bias=False)
        self.kv = nn.Linear(config.width, 2 * config.width, bias=False)
        self.context_gain = nn.Parameter(torch.ones(config.width))

    def queries(self, x: Tensor, rotation: Rotation) -> Tensor:
        """(B, T, C) -> (B, H, T, D), rotated to their positions."""
        q = self.biased(self.split(self.q(norm(x, self.attention_gain))), 0)
        return (rotate(norm(q), rotation) * self.qk_scale).to(q.dtype)

    def context(self, embedded: Tensor, rotation: Rotation) -> tuple[Tensor, Tensor]:
        """Embedded tokens (B, T, C) -> keys and values (B, H, T, D), keys rotated to their positions."""
        k, v = (self.split(part) for part in self.kv(norm(embedded, self.context_gain)).chunk(2, dim=-1))
        return rotate(norm(self.biased(k, 1)), rotation).to(v.dtype), v


def near_bias(width: int, heads: int) -> Tensor:
    """The biases that queries and keys start with, (2, H, 1, D): the first of each rotated pair is 2, the second 0.

    Rotated to their positions, two such vectors have a product that is greatest where they stand together and falls off
    with their distance, so attention begins near a query. Transformer-XL (arXiv 1901.02860, section 3.3) has learned
    biases, u and v, of its queries to the same end.
    """
    pair = torch.tensor([2.0, 0.0]).repeat_interleave(width // heads // 2)
    return pair.repeat(2, heads, 1, 1)


def initialise(embedding: nn.Embedding, head: nn.Linear, layers: Iterable[Layer]) -> None:
    """Weights of a new model: branches start silent (zero output matrices), so depth does not scale the first steps."""
    nn.init.normal_(embedding.weight)
    nn.init.normal_(head.weight, std=0.01)
    for layer in layers:
        for name in ("qkv", "q", "kv", "gate_up"):
            inner = getattr(layer, name, None)
            if isinstance(inner, nn.Linear):
                nn.init.normal_(inner.weight, std=inner.in_features**-0.5)
        nn.init.zeros_(layer.out.weight)
        nn.init.zeros_(layer.down.weight)


def norm(x: Tensor, gain: Tensor | None = None) -> Tensor:
    """RMS norm over the last axis; half precision is widened to float32 first."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return F.rms_norm(wide, x.shape[-1:], gain, eps=EPSILON)


def swiglu(x: Tensor) -> Tensor:
    """(..., 2 O) -> (..., O): the second half of the last axis times the SiLU of the first."""
    gate, up = x.chunk(2, dim=-1)
    return F.silu(gate) * up


def remember(memory: Tensor, new: Tensor, slots: int) -> Tensor:
    """The last ``slots`` keys of memory (B, H, M, D) and chunk (B, H, T, D), in memory of their own.

    A view would keep alive all that it looks into. Slots that no key has filled yet are zero.
    """
    batch, heads, length, size = new.shape
    old = slots - length
    if old <= 0:
        return new[:, :, length - slots :].clone(memory_format=torch.contiguous_format)
    unfilled = new.new_zeros(batch, heads, max(0, old - memory.shape[2]), size)
    recent = memory[:, :, max(0, memory.shape[2] - old) :].to(new.dtype)
    return torch.cat([unfilled, recent, new], dim=2)


def rotary(position: Tensor, size: int, *, like: Tensor) -> Rotation:
    """(B, T) positions -> cosines and sines (B, 1, T, ``size`` / 2), on the device and in the precision of ``like``.

    Angles are taken in float64: in float32 they would be wrong by a tenth of a radian beyond a million tokens.
    """
    half = size // 2
    rates = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64, device=like.device) / half)
    angles = position.to(like.device, torch.float64)[:, None, :, None] * rates
    return angles.cos().to(like.dtype), angles.sin().to(like.dtype)


def rotate(x: Tensor, rotation: Rotation) -> Tensor:
    """(B, H, T, D) with the pairs (d, d + D/2) turned by the angles of ``rotation``."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
