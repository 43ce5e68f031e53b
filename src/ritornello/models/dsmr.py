"""DSMR: a recurrent Transformer that streams a piece once, with a memory horizon of its own in every layer.

Depth-Structured Music Recurrence (arXiv 2602.19816) on Transformer-XL's recurrence (arXiv 1901.02860): what a segment
leaves behind is detached, and each layer keeps as much of it as its horizon says.

Axes: B lanes, T new tokens, M remembered tokens, K = M + T keys, H heads, D head size, C = H x D width, V events.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ritornello.models.attention import Attention, AttentionSpan, fastest
from ritornello.models.blocks import Block, remember, rotary
from ritornello.models.config import DSMRConfig
from ritornello.models.protocol import Model


class DSMRState(NamedTuple):
    """What the model remembers. Slot j of M, read from the right, holds the token M - j before the next one."""

    keys: tuple[Tensor, ...]  # per layer (B, H, M, D), rotated; M = the layer's horizon + the open segment's tokens
    values: tuple[Tensor, ...]  # per layer (B, H, M, D)
    position: Tensor  # (B,) int64 on the CPU: tokens of the piece read so far; what lies before it is never seen


class DSMR(Model[DSMRState]):
    """The model; see `Model` for what it offers."""

    config: DSMRConfig

    def __init__(self, config: DSMRConfig) -> None:
        super().__init__(config)
        self.attention: Attention | None = None  # one way to attend for all; None: the fastest of the device
        self.blocks = nn.ModuleList(Block(config) for _ in config.schedule.horizons)
        self.complete(self.layers())

    def layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def initial_state(self, batch: int) -> DSMRState:
        heads, size = self.config.heads, self.config.head_size
        empty = (torch.zeros(batch, heads, 0, size, device=self.device),) * self.config.schedule.layers
        return DSMRState(empty, empty, torch.zeros(batch, dtype=torch.int64))

    def restart(self, state: DSMRState, lanes: Tensor) -> DSMRState:
        """The state with the marked lanes (B,) at the start of a piece. Their old keys now have negative positions."""
        return state._replace(position=state.position.masked_fill(lanes.cpu(), 0))

    def forward(
        self, tokens: Tensor, state: DSMRState, *, detach: bool = True, span_tokens: int | None = None
    ) -> tuple[Tensor, DSMRState]:
        """See `Model`. Tokens are read segment by segment, and what a segment leaves behind is detached.

        ``detach=False`` lets gradients through, to measure how far influence reaches. Of their memories, all layers see
        ``span_tokens`` at most; None: all.
        """
        return self.by_segments(
            tokens, state, lambda part, before: self._within_segment(part, before, detach, span_tokens)
        )

    def _within_segment(
        self, tokens: Tensor, state: DSMRState, detach: bool, span_tokens: int | None
    ) -> tuple[Tensor, DSMRState]:
        schedule, length = self.config.schedule, tokens.shape[1]
        rotation = self.rotation(state.position[:, None] + torch.arange(length))
        x = self.embed(tokens)
        keys, values = [], []
        spans: dict[tuple[int | None, int], AttentionSpan] = {}  # layers alike share masks
        after = state.position + length
        for block, horizon, old_k, old_v in zip(self.layers(), schedule.horizons, state.keys, state.values):
            q, k, v = block.project(x, rotation)
            memories = old_k.shape[2]
            seen = min((h for h in (horizon, span_tokens) if h is not None), default=None)
            span = spans.setdefault(
                (seen, memories),
                AttentionSpan(state.position, length, memories, seen, self.segment_tokens, schedule.rule),
            )
            # Attend first, trim afterwards: trimming before would take keys from the earliest queries of the chunk.
            x = block.update(x, self._attention(q)(q, k, v, old_k, old_v, span))
            slots = self._slots(after, horizon, available=memories + length)
            keys.append(remember(old_k, k.detach() if detach else k, slots))
            values.append(remember(old_v, v.detach() if detach else v, slots))
        return self.predict(x), DSMRState(tuple(keys), tuple(values), after)

    def rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) positions -> cosines and sines (B, 1, T, D / 2)."""
        return rotary(position, self.config.head_size, like=self.final_gain)

    def _attention(self, q: Tensor) -> Attention:
        return self.attention or fastest(q)

    def _slots(self, position: Tensor, horizon: int | None, *, available: int) -> int:
        return self.config.slots(position.numpy(), horizon, available=available)
