"""What every model offers to training, evaluation, sampling and export: `Model`, the base of all families.

A model reads tokens of a batch of lanes and a state, and gives logits and the next state. A state is a tensor, or a
tuple of states, named tuples among them. It is a value: using it changes nothing, so it can be used again. What every
model promises is proved by ``tests/support/law.py``. Axes: B lanes, T new tokens, C width, V = codec.N_EVENTS events.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, Generic, TypeVar

import torch
from torch import Tensor, nn

from ritornello import codec
from ritornello.errors import RitornelloError, counted
from ritornello.horizons import HorizonSchedule
from ritornello.models.blocks import Layer, initialise, norm
from ritornello.models.config import ModelConfig

S = TypeVar("S")
M = TypeVar("M", bound="Model[Any]")


class Model(nn.Module, Generic[S]):
    """A model of token streams with an explicit state. A family says `initial_state`, `restart` and `forward`."""

    config: ModelConfig
    """what it was built from"""
    hint_embedding: nn.Embedding | None
    """a vector (C,) for everything that a hint can tell; None for a model without a motif memory"""
    label_embedding: nn.Embedding | None
    """a vector (C,) for every label, and one for none that stays zero; None for a model without labels"""
    final_gain: nn.Parameter
    head: nn.Linear

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.config = config
        self.embedding = nn.Embedding(codec.VOCABULARY_SIZE, config.width)

    def complete(self, layers: Iterable[Layer] = ()) -> None:
        """The last of a family's constructor: what stands above the layers, and the first weights of all these."""
        self.final_gain = nn.Parameter(torch.ones(self.config.width))
        self.head = nn.Linear(self.config.width, codec.N_EVENTS, bias=False)
        initialise(self.embedding, self.head, layers)
        # Drawn last: a seed's other weights are those of a model without.
        hints, labels, width = self.config.hint_ids, len(self.config.labels), self.config.width
        self.hint_embedding = nn.Embedding(hints, width) if hints else None
        self.label_embedding = nn.Embedding(1 + labels, width, padding_idx=0) if labels else None
        if self.hint_embedding is not None:
            nn.init.normal_(self.hint_embedding.weight, std=0.3)  # softer at the start than a token's
        if self.label_embedding is not None:
            nn.init.zeros_(self.label_embedding.weight)

    def initial_state(self, batch: int) -> S:
        """The state of ``batch`` lanes that have read nothing."""
        raise NotImplementedError

    def restart(self, state: S, lanes: Tensor) -> S:
        """The state with the lanes marked in (B,) bool back at the start of a piece: they see nothing of before."""
        raise NotImplementedError

    def forward(self, tokens: Tensor, state: S) -> tuple[Tensor, S]:
        """(B, T) token ids and the state before them -> (B, T, V) logits for the next events, and the state after.

        A model with a motif memory reads rows, (B, T, 1 + HINT_COLUMNS): each token and the hint after it. One with
        labels may be told some, in the columns after those. What the state holds is detached. Gradients reach back to
        the start of a token's segment, or of its window where the model computes that again.
        """
        raise NotImplementedError

    def by_segments(
        self, tokens: Tensor, state: Any, read: Callable[[Tensor, Any], tuple[Tensor, Any]]
    ) -> tuple[Tensor, Any]:
        """`forward`, for states with positions (B,), by what reads tokens up to the first border of any lane."""
        logits = []
        while tokens.shape[1]:
            phase = int((state.position % self.segment_tokens).max())
            length = min(tokens.shape[1], self.segment_tokens - phase)
            step, state = read(tokens[:, :length], state)
            logits.append(step)
            tokens = tokens[:, length:]
        if not logits:
            raise ValueError("forward needs at least one token")
        return (torch.cat(logits, dim=1) if len(logits) > 1 else logits[0]), state

    def crop(self, tokens: Tensor, before: Tensor) -> Tensor:
        """Logits (B, Q, V) of a crop's last Q tokens, with gradients everywhere; for families that train on crops.

        Tokens (B, M + Q) are padded on the left; (B,) int64 ``before`` on the CPU tells how many of M are none.
        """
        raise NotImplementedError

    @property
    def segment_tokens(self) -> int:
        """S: segments start at multiples of S, counted from the piece's start."""
        return self.config.segment_tokens

    @property
    def device(self) -> torch.device:
        return self.final_gain.device

    def parameter_groups(self) -> tuple[dict[str, nn.Parameter], dict[str, nn.Parameter]]:
        """Parameters by name: the matrices of the layers, and all others, tables and the head among them."""
        apart = {id(m.weight) for m in self.modules() if isinstance(m, nn.Embedding) or m is self.head}
        named = dict(self.named_parameters())
        matrices = {name: p for name, p in named.items() if p.ndim == 2 and id(p) not in apart}
        return matrices, {name: p for name, p in named.items() if name not in matrices}

    def rescheduled(self: M, schedule: HorizonSchedule) -> M:
        """The same weights (shared, not copied) of a model with horizons under another schedule of the same depth."""
        mine = self.config.schedule
        if not mine or schedule.layers != mine.layers:
            raise RitornelloError(
                f"the schedule has {counted(schedule.layers, 'layers')}, the model {mine.layers if mine else 0}"
            )
        # Modules of its own around shared weights: a twin put to evaluation leaves this model training.
        twin = copy.deepcopy(self, {id(weight): weight for weight in self.parameters()})
        twin.config = replace(self.config, schedule=schedule)
        return twin

    def embed(self, tokens: Tensor) -> Tensor:
        """(B, T) ids, or rows (B, T, ...) of a token, its hints and its labels -> (B, T, C) for the first layer."""
        if tokens.ndim == 2:
            return norm(self.embedding(tokens))
        labels = 1 + (codec.HINT_COLUMNS if self.hint_embedding is not None else 0)
        x = norm(self.embedding(tokens[..., 0]))
        if self.hint_embedding is not None:
            x = x + self.hint_embedding(tokens[..., 1:labels]).sum(dim=-2)
        if self.label_embedding is not None and tokens.shape[-1] > labels:
            x = x + self.label_embedding(tokens[..., labels:]).sum(dim=-2)
        return x

    def predict(self, x: Tensor) -> Tensor:
        """(B, T, C) -> (B, T, V) logits in the precision of the weights, under autocast too."""
        return self.head(norm(x, self.final_gain)).to(self.final_gain.dtype)


def named_tensors(state: Any, name: str = "") -> dict[str, Tensor]:
    """Every tensor of a state, named by where it stands in it: by fields and places, as ``keys/0``."""
    if isinstance(state, Tensor):
        return {name: state}
    places = (f"{name}/{place}".lstrip("/") for place in getattr(state, "_fields", range(len(state))))
    return {n: tensor for place, part in zip(places, state) for n, tensor in named_tensors(part, place).items()}


def with_tensors(state: Any, tensors: Mapping[str, Tensor], name: str = "") -> Any:
    """A state of the same form that holds other tensors, named as `named_tensors` does."""
    if isinstance(state, Tensor):
        return tensors[name]
    places = (f"{name}/{place}".lstrip("/") for place in getattr(state, "_fields", range(len(state))))
    parts = [with_tensors(part, tensors, place) for place, part in zip(places, state)]
    return type(state)(*parts) if hasattr(state, "_fields") else tuple(parts)


def nbytes(state: Any) -> int:
    """Bytes of everything but the positions, all lanes."""
    return sum(t.nbytes for name, t in named_tensors(state).items() if name != "position")
