"""DSMR: a recurrent Transformer that streams a piece once, with a memory horizon of its own in every layer.

Depth-Structured Music Recurrence (arXiv 2602.19816) on Transformer-XL's recurrence (arXiv 1901.02860): pre-norm blocks
with RMS norm (arXiv 1910.07467), rotary positions (arXiv 2104.09864) counted from the piece's start, normalised queries
and keys (arXiv 2010.04245), and a SiLU-gated MLP (arXiv 2002.05202). Keys are kept rotated: rotation depends on
differences of positions only, so a key is rotated once and attended to for as long as its layer remembers.

Axes: B lanes, T new tokens, M remembered tokens, K = M + T keys, H heads, D head size, C = H x D width, V events.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule, visible

ROTARY_BASE = 10_000.0


@dataclass(frozen=True)
class DSMRConfig:
    """Sizes of a DSMR. Raises RitornelloError where they do not fit together."""

    schedule: HorizonSchedule
    """memory horizons, one per layer: their number is the depth"""
    width: int = 256
    """C, channels of the residual stream"""
    heads: int = 4
    """H; the head size C / H must be even"""
    mlp_width: int = 704
    """channels inside the gated MLP"""
    segment_tokens: int = 512
    """S, the unit of recurrence, in tokens"""
    dropout: float = 0.0
    """share of each branch's output that training drops"""

    def __post_init__(self) -> None:
        for name in ("width", "heads", "mlp_width", "segment_tokens"):
            value = getattr(self, name)
            if not isinstance(value, int) or not 1 <= value <= 1_000_000:
                raise RitornelloError(f"{name} is {value}; it must be a whole number between 1 and 1,000,000")
        if self.width % (2 * self.heads):
            raise RitornelloError(f"width {self.width} must be a multiple of 2 x heads ({self.heads}); change either")
        if not 0 <= self.dropout < 1:
            raise RitornelloError(f"dropout is {self.dropout}; it must lie between 0 and 1, below 1")


class State(NamedTuple):
    """What the model remembers. Slot j of M, read from the right, holds the token M - j before the next one."""

    keys: tuple[Tensor, ...]  # per layer (B, H, M, D), rotated; M = the layer's horizon + the open segment's tokens
    values: tuple[Tensor, ...]  # per layer (B, H, M, D)
    position: Tensor  # (B,) int64 on the CPU: tokens of the piece read so far; what lies before it is never seen

    def nbytes(self) -> int:
        """Bytes of keys and values, all lanes."""
        return sum(t.numel() * t.element_size() for t in self.keys + self.values)


class Block(nn.Module):
    """One layer: attention and MLP, each behind a norm and added to the residual stream."""

    def __init__(self, config: DSMRConfig) -> None:
        super().__init__()
        width, self.heads = config.width, config.heads
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        self.out = nn.Linear(width, width, bias=False)
        self.gate_up = nn.Linear(width, 2 * config.mlp_width, bias=False)
        self.down = nn.Linear(config.mlp_width, width, bias=False)
        self.sharpness = nn.Parameter(torch.ones(self.heads, 1, 1))  # of normalised queries, per head
        self.attention_gain = nn.Parameter(torch.ones(width))
        self.mlp_gain = nn.Parameter(torch.ones(width))
        self.dropout = nn.Dropout(config.dropout)

    def project(self, x: Tensor, rotation: tuple[Tensor, Tensor]) -> tuple[Tensor, Tensor, Tensor]:
        """(B, T, C) -> queries, keys, values, each (B, H, T, D), queries and keys rotated to their positions."""
        batch, length, width = x.shape
        qkv = self.qkv(norm(x, self.attention_gain))
        q, k, v = qkv.view(batch, length, 3, self.heads, width // self.heads).permute(2, 0, 3, 1, 4)
        q = rotate(norm(q), rotation) * self.sharpness
        return q.to(v.dtype), rotate(norm(k), rotation).to(v.dtype), v

    def attend(self, x: Tensor, q: Tensor, k: Tensor, v: Tensor, seen: Tensor | None) -> Tensor:
        """Adds what queries (B, H, T, D) find in keys and values (B, H, K, D); ``seen`` (B, 1, T, K), None = all."""
        found = F.scaled_dot_product_attention(q, k, v, attn_mask=seen)
        x = x + self.dropout(self.out(found.transpose(1, 2).flatten(2)))
        gate, up = self.gate_up(norm(x, self.mlp_gain)).chunk(2, dim=-1)
        return x + self.dropout(self.down(F.silu(gate) * up))


class DSMR(nn.Module):
    """The model; see `RecurrentModel` for its protocol."""

    def __init__(self, config: DSMRConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(codec.VOCABULARY_SIZE, config.width)
        self.blocks = nn.ModuleList(Block(config) for _ in config.schedule.horizons)
        self.final_gain = nn.Parameter(torch.ones(config.width))
        self.head = nn.Linear(config.width, codec.N_EVENTS, bias=False)
        self._initialise()

    def layers(self) -> list[Block]:
        """The blocks, lowest first."""
        return cast("list[Block]", list(self.blocks))

    @property
    def segment_tokens(self) -> int:
        """S, in tokens."""
        return self.config.segment_tokens

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.final_gain.device

    def initial_state(self, batch: int) -> State:
        """The state of ``batch`` lanes at the start of a piece: no keys yet."""
        heads, size = self.config.heads, self.config.width // self.config.heads
        empty = tuple(torch.zeros(batch, heads, 0, size, device=self.device) for _ in self.blocks)
        return State(empty, empty, torch.zeros(batch, dtype=torch.int64))

    def restart(self, state: State, lanes: Tensor) -> State:
        """The state with the marked lanes (B,) at the start of a piece. Their old keys now have negative positions."""
        return state._replace(position=state.position.masked_fill(lanes.cpu(), 0))

    def rescheduled(self, schedule: HorizonSchedule) -> DSMR:
        """The same weights (shared, not copied) under another schedule of the same depth."""
        if schedule.layers != len(self.blocks):
            raise RitornelloError(f"the schedule has {schedule.layers} layers, the model {len(self.blocks)}")
        # Modules of its own around shared weights: a twin put to evaluation leaves this model training.
        twin = copy.deepcopy(self, {id(weight): weight for weight in self.parameters()})
        twin.config = replace(self.config, schedule=schedule)
        return twin

    def forward(self, tokens: Tensor, state: State, *, detach: bool = True) -> tuple[Tensor, State]:
        """(B, T) ids and the state before them -> (B, T, V) logits and the state after; any T.

        Tokens are read segment by segment, so no gradient crosses a segment's start: what a segment leaves behind is
        detached. ``detach=False`` lets gradients through, to measure how far influence reaches.
        """
        logits = []
        while tokens.shape[1]:
            phase = int((state.position % self.segment_tokens).max())
            length = min(tokens.shape[1], self.segment_tokens - phase)  # up to the first border of any lane
            step, state = self._within_segment(tokens[:, :length], state, detach)
            logits.append(step)
            tokens = tokens[:, length:]
        if not logits:
            raise ValueError("forward needs at least one token")
        return (torch.cat(logits, dim=1) if len(logits) > 1 else logits[0]), state

    def _within_segment(self, tokens: Tensor, state: State, detach: bool) -> tuple[Tensor, State]:
        schedule, length = self.config.schedule, tokens.shape[1]
        position = state.position[:, None] + torch.arange(length)
        rotation = self.rotation(position)
        x = self.embed(tokens)
        keys, values = [], []
        masks: dict[tuple[int | None, int], Tensor | None] = {}
        after = state.position + length
        for block, horizon, old_k, old_v in zip(self.layers(), schedule.horizons, state.keys, state.values):
            q, k, v = block.project(x, rotation)
            if old_k.shape[2]:
                k = torch.cat([old_k.to(k.dtype), k], dim=2)
                v = torch.cat([old_v.to(v.dtype), v], dim=2)
            shape = (horizon, k.shape[2])
            if shape not in masks:
                masks[shape] = self._seen(position, k.shape[2], horizon)
            # Attend first, trim afterwards: trimming before would take keys from the earliest queries of the chunk.
            x = block.attend(x, q, k, v, masks[shape])
            kept = min(k.shape[2], self._remembered(after, horizon))
            keys.append(latest(k.detach() if detach else k, kept))
            values.append(latest(v.detach() if detach else v, kept))
        return self.predict(x), State(tuple(keys), tuple(values), after)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) ids -> (B, T, C), the residual stream that the first layer reads."""
        return norm(self.embedding(tokens))

    def rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) positions -> cosines and sines (B, 1, T, D / 2).

        Angles are taken in float64: in float32 they would be wrong by a tenth of a radian beyond a million tokens.
        """
        half = self.config.width // self.config.heads // 2
        rates = ROTARY_BASE ** (-torch.arange(half, dtype=torch.float64) / half)
        angles = position.to(torch.float64)[:, None, :, None] * rates
        gain = self.final_gain
        return angles.cos().to(gain.device, gain.dtype), angles.sin().to(gain.device, gain.dtype)

    def predict(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V) logits in the precision of the weights, under autocast too."""
        return self.head(norm(x, self.final_gain)).to(self.final_gain.dtype)

    def _seen(self, position: Tensor, n_keys: int, horizon: int | None) -> Tensor | None:
        """(B, 1, T, K) bool by the visibility rule; None where a single query sees every key, as in stepping."""
        query = position.to(self.device)
        key = query[:, -1:] - n_keys + 1 + torch.arange(n_keys, device=self.device)
        seen = visible(
            query[:, :, None],
            key[:, None, :],
            horizon=horizon,
            segment_tokens=self.segment_tokens,
            rule=self.config.schedule.rule,
        )
        return None if position.shape[1] == 1 and bool(seen.all()) else seen[:, None]

    def _remembered(self, position: Tensor, horizon: int | None) -> int:
        """Slots that queries at (B,) ``position`` and later can still see: horizon and open segment, by lane."""
        phase = position % self.segment_tokens
        if horizon is None:
            needed = position
        elif self.config.schedule.rule == "segment":
            needed = torch.minimum(position, phase + horizon)
        else:
            needed = torch.minimum(position, phase.clamp(min=horizon))
        return int(needed.max())

    def _initialise(self) -> None:
        """Branches start silent (zero output matrices), so depth does not scale the first steps."""
        nn.init.normal_(self.embedding.weight)
        nn.init.normal_(self.head.weight, std=0.01)
        for block in self.layers():
            for inner in (block.qkv, block.gate_up):
                nn.init.normal_(inner.weight, std=inner.in_features**-0.5)
            nn.init.zeros_(block.out.weight)
            nn.init.zeros_(block.down.weight)


def norm(x: Tensor, gain: Tensor | None = None) -> Tensor:
    """RMS norm over the last axis; half precision is widened to float32 first."""
    wide = x if x.dtype in (torch.float32, torch.float64) else x.float()
    return F.rms_norm(wide, x.shape[-1:], gain, eps=1e-6)


def latest(x: Tensor, n: int) -> Tensor:
    """The last ``n`` slots of (B, H, K, D), in memory of their own: a view would keep alive all that it looks into."""
    view = x[:, :, x.shape[2] - n :]
    owned = view.untyped_storage().nbytes() == view.numel() * view.element_size()
    return view if owned else view.clone(memory_format=torch.contiguous_format)


def rotate(x: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """(B, H, T, D) with the pairs (d, d + D/2) turned by the angles of ``rotation``."""
    cos, sin = rotation
    a, b = x.chunk(2, dim=-1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], dim=-1)
