"""A family of models as a stranger would add one: this file, put beside the others in ``ritornello/models``.

It is a GRU (arXiv 1406.1078): layers of gated recurrent units, each beside the residual stream.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor, nn

from ritornello.codec.motifs import memory_bytes
from ritornello.models.config import ModelConfig
from ritornello.models.protocol import Model


@dataclass(frozen=True)
class GRUConfig(ModelConfig):
    """Sizes of a GRU."""

    family: ClassVar[str] = "gru"
    model: ClassVar[str] = f"{__name__}:GRU"
    layers: int = 2
    width: int = 16
    segment_tokens: int = 16
    motif_notes: int = 0

    def __post_init__(self) -> None:
        self.check_whole("layers", "width", "segment_tokens")
        self.check_whole("motif_notes", low=0)

    @property
    def remembers(self) -> str:
        return f"{self.layers} hidden states of {self.width}"

    @property
    def state_bytes(self) -> int:
        return 4 * self.layers * self.width + memory_bytes(self.motif_notes)


class GRUState(NamedTuple):
    """What it remembers."""

    hidden: tuple[Tensor, ...]  # per layer (B, C)
    position: Tensor  # (B,) int64: segments begin where it is a multiple of theirs


class GRU(Model[GRUState]):
    """Layers of gated recurrent units, each beside the stream."""

    config: GRUConfig

    def __init__(self, config: GRUConfig) -> None:
        super().__init__(config)
        self.cells = nn.ModuleList(nn.GRUCell(config.width, config.width) for _ in range(config.layers))
        self.complete()

    def initial_state(self, batch: int) -> GRUState:
        hidden = tuple(self.final_gain.new_zeros(batch, self.config.width) for _ in range(self.config.layers))
        return GRUState(hidden, torch.zeros(batch, dtype=torch.int64))

    def restart(self, state: GRUState, lanes: Tensor) -> GRUState:
        marked = lanes.to(self.device)[:, None]
        hidden = tuple(h.masked_fill(marked, 0) for h in state.hidden)
        return GRUState(hidden, state.position.masked_fill(lanes, 0))

    def forward(self, tokens: Tensor, state: GRUState, *, detach: bool = True) -> tuple[Tensor, GRUState]:
        x, hidden, position, outputs = self.embed(tokens), list(state.hidden), state.position, []
        for step in x.unbind(1):
            if detach and (position % self.segment_tokens == 0).any():
                hidden = [h.detach() for h in hidden]
            for layer, cell in enumerate(self.cells):
                hidden[layer] = cell(step, hidden[layer].to(step.dtype))
                step = step + hidden[layer]
            outputs.append(step)
            position = position + 1
        kept = tuple(h.detach() if detach else h for h in hidden)
        return self.predict(torch.stack(outputs, dim=1)), GRUState(kept, position)
