"""DSMR: a recurrent Transformer that streams a piece once, with a memory horizon of its own in every layer.

Depth-Structured Music Recurrence (arXiv 2602.19816) on Transformer-XL's recurrence (arXiv 1901.02860): what a segment
leaves behind is detached, and each layer keeps as much of it as its horizon says.

Axes: B lanes, T new tokens, M remembered tokens, K = M + T keys, H heads, D head size, C = H x D width, V events.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass, replace
from typing import NamedTuple, cast

import torch
from torch import Tensor, nn

from ritornello import codec
from ritornello.errors import RitornelloError
from ritornello.horizons import HorizonSchedule
from ritornello.models.attention import Attention, Sight, compiled, fastest, flex
from ritornello.models.blocks import Block, embedded, hint_embedding, initialise, norm, remember, rotary

STEP_TOKENS = 4096  # of an unlimited memory's growth where its shapes should change seldom


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
    qk_bias: bool = False
    """queries and keys have learned biases, which start as a preference for what is near"""
    motif_notes: int = 0
    """strikes in the motif memory (`codec.motifs`) whose hints the model reads with each token; 0 for none"""

    def __post_init__(self) -> None:
        for name, low, high in (
            *((name, 1, 1_000_000) for name in ("width", "heads", "mlp_width", "segment_tokens")),
            ("motif_notes", 0, 1_000_000),
        ):
            value = getattr(self, name)
            if not isinstance(value, int) or not low <= value <= high:
                raise RitornelloError(f"{name} is {value}; it must be a whole number between {low} and {high:,}")
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


class DSMR(nn.Module):
    """The model; see `RecurrentModel` for its protocol."""

    def __init__(self, config: DSMRConfig) -> None:
        super().__init__()
        self.config = config
        self.attention: Attention | None = None  # one way to attend for all; None: the fastest of the device
        self.sight_tokens: int | None = None  # of their memories, all layers see so much at most; None: all
        self.embedding = nn.Embedding(codec.VOCABULARY_SIZE, config.width)
        sizes = (config.width, config.heads, config.mlp_width, config.dropout)
        self.blocks = nn.ModuleList(Block(*sizes, qk_bias=config.qk_bias) for _ in config.schedule.horizons)
        self.final_gain = nn.Parameter(torch.ones(config.width))
        self.head = nn.Linear(config.width, codec.N_EVENTS, bias=False)
        initialise(self.embedding, self.head, self.layers())
        # Drawn last: a seed's other weights are those of a model without.
        self.hint_embedding = hint_embedding(config.width) if config.motif_notes else None

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
        """The state of ``batch`` lanes at the start of a piece: no keys yet, or room for them (`_slots`)."""
        heads, size = self.config.heads, self.config.width // self.config.heads
        position = torch.zeros(batch, dtype=torch.int64)
        slots = [self._slots(position, horizon, there=0) for horizon in self.config.schedule.horizons]
        empty = tuple(torch.zeros(batch, heads, n, size, device=self.device) for n in slots)
        return State(empty, empty, position)

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

        A model with a motif memory reads rows, (B, T, 1 + HINT_COLUMNS): each token and the hint after it. They are
        read segment by segment, so no gradient crosses a segment's start: what a segment leaves behind is detached.
        ``detach=False`` lets gradients through, to measure how far influence reaches.
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
        rotation = self.rotation(state.position[:, None] + torch.arange(length))
        x = self.embed(tokens)
        keys, values = [], []
        sights: dict[tuple[int | None, int], Sight] = {}  # layers alike share masks
        after = state.position + length
        project, update = Block.project, Block.update
        if tokens.is_cuda:
            project, update = compiled(project), compiled(update)
        for block, horizon, old_k, old_v in zip(self.layers(), schedule.horizons, state.keys, state.values):
            q, k, v = project(block, x, rotation)
            memories = old_k.shape[2]
            seen = min((h for h in (horizon, self.sight_tokens) if h is not None), default=None)
            sight = sights.setdefault(
                (seen, memories), Sight(state.position, length, memories, seen, self.segment_tokens, schedule.rule)
            )
            # Attend first, trim afterwards: trimming before would take keys from the earliest queries of the chunk.
            x = update(block, x, self._attention(q)(q, k, v, old_k, old_v, sight))
            slots = self._slots(after, horizon, there=memories + length)
            keys.append(remember(old_k, k.detach() if detach else k, slots))
            values.append(remember(old_v, v.detach() if detach else v, slots))
        return self.predict(x), State(tuple(keys), tuple(values), after)

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) ids or rows -> (B, T, C), the residual stream that the first layer reads."""
        return embedded(tokens, self.embedding, self.hint_embedding)

    def rotation(self, position: Tensor) -> tuple[Tensor, Tensor]:
        """(B, T) positions -> cosines and sines (B, 1, T, D / 2)."""
        return rotary(position, self.config.width // self.config.heads, like=self.final_gain)

    def predict(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V) logits in the precision of the weights, under autocast too."""
        return self.head(norm(x, self.final_gain)).to(self.final_gain.dtype)

    def _attention(self, q: Tensor) -> Attention:
        return self.attention or fastest(q)

    def _slots(self, position: Tensor, horizon: int | None, *, there: int) -> int:
        """`slots_of` this model, as it attends."""
        fixed = self.device.type == "cuda" or self.attention is flex
        return slots_of(self.config, position, horizon, there=None if fixed else there)


def slots_of(config: DSMRConfig, position: Tensor, horizon: int | None, *, there: int | None) -> int:
    """Slots that a layer keeps for queries at (B,) ``position`` and later: horizon and open segment, by lane.

    No more than the keys that are ``there``. With None, as on CUDA, where each number of slots is a compilation of its
    own: room for the whole horizon from the start, and for an unlimited one room that grows in steps. Steps double up
    to `STEP_TOKENS`, are of as many from there on, and a sixteenth of the next power of two beyond 65,536: an eighth
    too much at most, in some thirty sizes up to 131,072 tokens.
    """
    if horizon is None:
        read = int(position.max())
        if there is not None or not read:
            return min(read, there or 0)
        power = 1 << (read - 1).bit_length()
        step = max(power // 16, min(power, STEP_TOKENS))
        return max(config.segment_tokens, -(-read // step) * step)
    phase = position % config.segment_tokens
    needed = phase + horizon if config.schedule.rule == "segment" else phase.clamp(min=horizon)
    return int(needed.max()) if there is None else min(int(torch.minimum(position, needed).max()), there)
