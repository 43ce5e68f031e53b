"""PerceiverS and Perceiver AR: the latest tokens look once at a long context, then only at each other.

Perceiver AR (arXiv 2202.07765): Q latents, one for each of the last Q tokens, take what they need from up to N tokens
of context in a cross-attention, then pass through a causal stack of their own. PerceiverS (arXiv 2411.08307, section
V-B) looks more than once, at several scales in cascade: the whole context, then the last 1,024 tokens.

Where the window of latents stands is a function of absolute position: it grows to Q and then moves on by a stride, so
that a token has at least Q - stride + 1 latents (its own among them) behind it wherever the piece has as many. At
position q, with start = q // stride * stride, latents begin at start + stride - Q and a scale of n tokens at
start + stride - n: the segment rule of ``horizons`` with S = stride and the horizons Q - stride and n - stride. Keys of
the context depend on their tokens alone and are kept; latents are computed again when the window moves.

Axes: B lanes, T new tokens, M remembered ones, H heads, D head size, C = H x D width, V events.
"""

from __future__ import annotations

from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ritornello import codec
from ritornello.models.attention import Attention, AttentionSpan, fastest
from ritornello.models.blocks import Block, CrossAttention, remember, rotary
from ritornello.models.config import PerceiverConfig
from ritornello.models.protocol import Model

Pairs = tuple[tuple[Tensor, Tensor], ...]  # keys, rotated, and values, each (B, H, M, D)


class PerceiverState(NamedTuple):
    """What the model remembers. Slot j of M, read from the right, belongs to the token M - j before the next one."""

    tokens: Tensor  # (B, M), or rows (B, M, 1 + HINT_COLUMNS), int32: the window's, to compute latents of again
    context: Pairs  # per cross-attention
    latents: Pairs  # per layer; M = 0 where all windows are about to move
    position: Tensor  # (B,) int64 on the CPU: tokens of the piece read so far; what lies before it is never seen


class Perceiver(Model[PerceiverState]):
    """The model; see `Model` for what it offers. Training reads crops (`crop`), all else reads streams."""

    config: PerceiverConfig

    def __init__(self, config: PerceiverConfig) -> None:
        super().__init__(config)
        self.attention: Attention | None = None  # one way to attend for all; None: the fastest of the device
        self.looks = nn.ModuleList(CrossAttention(config) for _ in config.scales)
        self.blocks = nn.ModuleList(Block(config) for _ in range(config.layers))
        self.complete([*self.cross_attentions(), *self.layers()])

    def cross_attentions(self) -> list[CrossAttention]:
        """The looks at the context, in cascade."""
        return cast("list[CrossAttention]", list(self.looks))

    def layers(self) -> list[Block]:
        return cast("list[Block]", list(self.blocks))

    def initial_state(self, batch: int) -> PerceiverState:
        row = (1 + codec.HINT_COLUMNS,) if self.config.motif_notes else ()
        tokens = torch.zeros(batch, 0, *row, dtype=torch.int32, device=self.device)
        empty = (self._nothing(batch), self._nothing(batch))
        looks, layers = (empty,) * len(self.config.scales), (empty,) * self.config.layers
        return PerceiverState(tokens, looks, layers, torch.zeros(batch, dtype=torch.int64))

    def restart(self, state: PerceiverState, lanes: Tensor) -> PerceiverState:
        return state._replace(position=state.position.masked_fill(lanes.cpu(), 0))

    def forward(self, tokens: Tensor, state: PerceiverState) -> tuple[Tensor, PerceiverState]:
        """See `Model`. Gradients pass through the latents of a window, also those computed again of earlier tokens."""
        return self.by_segments(tokens, state, self._within_window)

    def crop(self, tokens: Tensor, before: Tensor) -> Tensor:
        memories = tokens.shape[1] - self.config.latents
        past = self.embed(tokens[:, :memories])
        rotation = self.rotation((before[:, None] - memories + torch.arange(memories)).clamp(min=0))
        context = []
        for look, scale in zip(self.cross_attentions(), self.config.scales):
            first = 0 if scale is None else max(0, tokens.shape[1] - scale)
            cosines, sines = rotation
            context.append(look.context(past[:, first:], (cosines[:, :, first:], sines[:, :, first:])))
        x, _, _ = self._read(tokens[:, memories:], before, tuple(context), None)
        return self.predict(x)

    def rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) positions -> cosines and sines (B, 1, T, D / 2)."""
        return rotary(position, self.config.head_size, like=self.final_gain)

    def _within_window(self, tokens: Tensor, state: PerceiverState) -> tuple[Tensor, PerceiverState]:
        config, length = self.config, tokens.shape[1]
        state = self._moved(state)
        x, looked, thought = self._read(tokens, state.position, state.context, state.latents)
        after = state.position + length
        phase = after % config.stride_tokens

        def trimmed(olds: Pairs, news: Pairs, needed: list[Tensor]) -> Pairs:
            pairs = []
            for (old_k, old_v), (k, v), most in zip(olds, news, needed):
                slots = _slots(after, most, old_k.shape[2] + length)
                # Those computed again in this call are not detached yet.
                pairs.append((remember(old_k, k, slots).detach(), remember(old_v, v, slots).detach()))
            return tuple(pairs)

        window = phase + config.before_stride
        latents = window.masked_fill(phase == 0, 0)  # they are about to be computed again
        read = torch.cat([state.tokens, tokens.int()], dim=1)
        read = read[:, read.shape[1] - _slots(after, window, read.shape[1]) :].clone()
        context = trimmed(state.context, looked, [phase + reach for reach in config.reaches])
        return self.predict(x), PerceiverState(
            read, context, trimmed(state.latents, thought, [latents] * config.layers), after
        )

    def _moved(self, state: PerceiverState) -> PerceiverState:
        """The state with the latents of every window that moves at its lane's position."""
        at_border = state.position % self.config.stride_tokens == 0
        most = min(self.config.before_stride, state.tokens.shape[1])  # fewer are there if a lane forgot its past
        again = torch.where(at_border, state.position.clamp(max=most), 0)
        latents = state.latents
        for count in sorted(set(again.tolist()) - {0}):
            lanes = (again == count).nonzero().flatten()
            # Cut to what the window sees, the context needs no further limit.
            context = []
            for (k, v), reach in zip(state.context, self.config.reaches):
                seen = slice(max(0, k.shape[2] - reach), k.shape[2] - count)
                context.append((k[lanes, :, seen], v[lanes, :, seen]))
            tokens = state.tokens[lanes, state.tokens.shape[1] - count :].long()
            _, _, thought = self._read(tokens, state.position[lanes] - count, tuple(context), None)
            latents = tuple(
                (_placed(old_k, k, lanes), _placed(old_v, v, lanes)) for (old_k, old_v), (k, v) in zip(latents, thought)
            )
        return state._replace(latents=latents)

    def _read(
        self, tokens: Tensor, before: Tensor, context: Pairs, latents: Pairs | None
    ) -> tuple[Tensor, Pairs, Pairs]:
        """Latents of tokens (B, T) that stand from (B,) ``before`` on.

        Args:
            tokens: ids.
            before: position of each lane's first token.
            context: what came before, per cross-attention.
            latents: those before, per layer; None for a window that begins here and sees all of ``context``.

        Returns:
            The latents' last values (B, T, C), and the keys and values of the tokens per cross-attention and layer.
        """
        config, length = self.config, tokens.shape[1]
        rotation = self.rotation((before[:, None] + torch.arange(length)).clamp(min=0))

        def attend(q: Tensor, new: tuple[Tensor, Tensor], old: tuple[Tensor, Tensor], horizon: int) -> Tensor:
            limit = None if latents is None else horizon
            span = AttentionSpan(before, length, old[0].shape[2], limit, config.stride_tokens, "segment")
            return (self.attention or fastest(q))(q, *new, *old, span)

        x = read = self.embed(tokens)
        looked, thought = [], []
        for look, reach, old in zip(self.cross_attentions(), config.reaches, context):
            looked.append(look.context(read, rotation))
            x = look.update(x, attend(look.queries(x, rotation), looked[-1], old, reach))
        nothing = self._nothing(len(tokens))
        for block, old in zip(self.layers(), latents or ((nothing, nothing),) * config.layers):
            q, *new = block.project(x, rotation)
            thought.append((new[0], new[1]))
            x = block.update(x, attend(q, thought[-1], old, config.before_stride))
        return x, tuple(looked), tuple(thought)

    def _nothing(self, batch: int) -> Tensor:
        config, gain = self.config, self.final_gain
        return torch.zeros(batch, config.heads, 0, config.head_size, device=gain.device, dtype=gain.dtype)


def _slots(position: Tensor, needed: Tensor, available: int) -> int:
    """Slots that lanes at (B,) ``position`` keep: what any needs, as far as the piece has had it."""
    return min(int(torch.minimum(position, needed).max()), available)


def _placed(old: Tensor, new: Tensor, lanes: Tensor) -> Tensor:
    """(B, H, M, D) with some lanes' latest slots taken from (lanes, H, M', D); room is made where M' exceeds M."""
    short = max(0, new.shape[2] - old.shape[2])
    room = torch.cat([old.new_zeros(*old.shape[:2], short, old.shape[3]), old], dim=2)
    padded = torch.cat([room[lanes, :, : room.shape[2] - new.shape[2]], new.to(room.dtype)], dim=2)
    return room.index_copy(0, lanes.to(room.device), padded)
