"""The training framework's engine: models in torch, with buffers allocated once and written in place.

What a layer remembers has room for its horizon and one segment. A token's key and value go to the next free slot; at a
segment's start the last H_l slots move to the front, once in S tokens. So a step copies nothing and needs no mask. For
a Perceiver the segment is the stride, and its window's latents are computed again at each start. Axes as in ``models``.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.horizons import visible
from ritornello.models import from_checkpoint
from ritornello.models.dsmr import DSMR
from ritornello.models.perceivers import Perceiver
from ritornello.models.protocol import Model, named_tensors, nbytes, with_tensors


class TorchEngine:
    """See `ritornello.engines.Engine`."""

    def __init__(
        self, model: Model[Any], *, name: str = "", data: dict[str, str] | None = None, legal: bool = False
    ) -> None:
        self.model = model.eval()
        for module in model.modules():
            if isinstance(module, nn.Linear):  # laid out by columns: one token's product is faster on a CPU
                module.weight.data = module.weight.data.t().contiguous().t()
        self.name = name
        self.data = data or {}
        self.legal = legal

    @property
    def threads(self) -> int:
        return torch.get_num_threads()

    @property
    def weight_bytes(self) -> int:
        matrices, _ = self.model.parameter_groups()
        return sum(weight.numel() * weight.element_size() for weight in (*matrices.values(), self.model.head.weight))

    @property
    def memory_tokens(self) -> int:
        return self.model.config.memory_tokens

    @classmethod
    def load(cls, model: str, *, threads: int | None = None) -> TorchEngine:
        """From a bundled model's name or a checkpoint folder. Raises RitornelloError as `load_checkpoint` does."""
        checkpoint = load_checkpoint(model)
        if threads is not None:
            torch.set_num_threads(threads)
        legal = bool(checkpoint.progress.get("legal", False))
        return cls(from_checkpoint(checkpoint), name=str(model), data=checkpoint.data, legal=legal)

    def begin(self) -> TorchSession:
        """A session at the start of a piece, in the fastest way that there is for the family."""
        if isinstance(self.model, DSMR):
            return DSMRSession(self.model)
        return PerceiverSession(self.model) if isinstance(self.model, Perceiver) else TorchSession(self.model)


class Cache:
    """Keys and values of one layer and one lane in memory of their own; a layer of no limit doubles it when full."""

    def __init__(self, heads: int, size: int, *, slots: int) -> None:
        self._buffer = torch.zeros(2, 1, heads, slots, size)
        self.used = 0

    @property
    def nbytes(self) -> int:
        """Bytes, allocated."""
        return self._buffer.numel() * self._buffer.element_size()

    @property
    def held(self) -> tuple[Tensor, Tensor]:
        """Keys and values (1, H, used, D), as views."""
        return self._buffer[0, :, :, : self.used], self._buffer[1, :, :, : self.used]

    def add(self, k: Tensor, v: Tensor) -> tuple[Tensor, Tensor]:
        """Puts keys and values (1, H, T, D) behind what is held; gives all that is held then."""
        first, self.used = self.used, self.used + k.shape[2]
        if self.used > self._buffer.shape[3]:
            self._buffer = torch.cat([self._buffer, torch.zeros_like(self._buffer)], dim=3)
        self._buffer[0, :, :, first : self.used] = k
        self._buffer[1, :, :, first : self.used] = v
        return self.held

    def keep(self, slots: int) -> None:
        """Forgets all but the last ``slots``."""
        if self.used > slots:
            self._buffer[:, :, :, :slots] = self._buffer[:, :, :, self.used - slots : self.used].clone()
            self.used = slots


class TorchSession:
    """One lane of any model, by its own `forward`; see `ritornello.engines.Session`."""

    def __init__(self, model: Model[Any]) -> None:
        self.position = 0  # tokens read so far; whoever sets it takes so many as read
        self._model = model
        self._motifs = codec.MotifMemory(model.config.motif_notes) if model.config.motif_notes else None
        self._state = self._begun()

    @property
    def nbytes(self) -> int:
        return self._held_bytes() + (self._motifs.nbytes if self._motifs else 0)

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        return self.score(tokens)[-1]

    @torch.inference_mode()
    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        if not len(tokens):
            raise ValueError("a session reads at least one token")
        rows = torch.from_numpy(codec.with_hints(tokens, self._motifs.read(tokens) if self._motifs else None))[None]
        found, segment_tokens = [], self._model.segment_tokens
        while rows.shape[1]:
            length = segment_tokens - self.position % segment_tokens
            found.append(self._within_segment(rows[:, :length])[0])
            self.position += len(found[-1])
            rows = rows[:, length:]
        return torch.cat(found).numpy()

    def _begun(self) -> Any:
        """What is remembered before the first token."""
        return self._model.initial_state(1)

    def _held_bytes(self) -> int:
        return nbytes(self._state)

    def _within_segment(self, tokens: Tensor) -> Tensor:
        """Logits (1, T, V) of ids or rows (1, T, ...) that stand in one segment, from ``position`` on."""
        tensors = named_tensors(self._state)
        if "position" in tensors:
            place = torch.full_like(tensors["position"], self.position)
            self._state = with_tensors(self._state, tensors | {"position": place})
        logits, self._state = self._model(tokens, self._state)
        return logits


class DSMRSession(TorchSession):
    """One lane of a DSMR in fixed memory."""

    _model: DSMR
    _state: list[Cache]

    def _begun(self) -> list[Cache]:
        config = self._model.config
        return [Cache(config.heads, config.head_size, slots=config.room(h or 0)) for h in config.schedule.horizons]

    def _held_bytes(self) -> int:
        return sum(cache.nbytes for cache in self._state)

    def _within_segment(self, tokens: Tensor) -> Tensor:
        model, horizons = self._model, self._model.config.schedule.horizons
        if self.position % model.segment_tokens == 0:
            for cache, horizon in zip(self._state, horizons):
                if horizon is not None:
                    cache.keep(horizon)
        position = torch.arange(self.position, self.position + tokens.shape[1])
        rotation = model.rotation(position[None])
        x = model.embed(tokens)
        for block, cache, horizon in zip(model.layers(), self._state, horizons):
            q, k, v = block.project(x, rotation)
            keys, values = cache.add(k, v)
            seen = self._seen(position, cache.used, horizon)
            x = block.update(x, F.scaled_dot_product_attention(q, keys, values, attn_mask=seen))
        return model.predict(x)

    def _seen(self, position: Tensor, used: int, horizon: int | None) -> Tensor | None:
        rule = self._model.config.schedule.rule
        if len(position) == 1 and rule == "segment":
            return None
        key = position[-1] + 1 - used + torch.arange(used)
        return visible(position[:, None], key, horizon=horizon, segment_tokens=self._model.segment_tokens, rule=rule)[
            None, None
        ]


class PerceiverSession(TorchSession):
    """One lane of a Perceiver in fixed memory."""

    _model: Perceiver
    _tokens: Tensor | None = None  # of the window, or rows with hints, the oldest first

    def _begun(self) -> tuple[list[Cache], list[Cache]]:
        """Of the context, per cross-attention, and of latents, per layer."""
        config = self._model.config
        heads, size = config.heads, config.head_size
        context = [Cache(heads, size, slots=reach + config.stride_tokens) for reach in config.reaches]
        return context, [Cache(heads, size, slots=config.latents) for _ in range(config.layers)]

    def _held_bytes(self) -> int:
        return sum(cache.nbytes for caches in self._state for cache in caches)

    def _within_segment(self, tokens: Tensor) -> Tensor:
        if self.position % self._model.segment_tokens == 0:
            self._move()
        x = self._latents_of(tokens, self.position, add_context=True)
        self._tokens = tokens if self._tokens is None else torch.cat([self._tokens, tokens], dim=1)
        return self._model.predict(x)

    def _move(self) -> None:
        """The window moves: contexts shrink to what it will see, its latents are computed again."""
        context, latents = self._state
        for cache, reach in zip(context, self._model.config.reaches):
            cache.keep(reach)
        for cache in latents:
            cache.keep(0)
        count = min(self.position, self._model.config.before_stride)
        if self._tokens is not None and count:
            self._tokens = self._tokens[:, self._tokens.shape[1] - count :]
            self._latents_of(self._tokens, self.position - count, add_context=False)

    def _latents_of(self, tokens: Tensor, first: int, *, add_context: bool) -> Tensor:
        """Latents (1, T, C) of tokens from position ``first`` on, the latest of the context."""
        model, (context, latents) = self._model, self._state
        rotation = model.rotation(torch.arange(first, first + tokens.shape[1])[None])
        x = embedded = model.embed(tokens)
        for look, cache in zip(model.cross_attentions(), context):
            if add_context:
                cache.add(*look.context(embedded, rotation))
            x = look.update(x, _latest_see(look.queries(x, rotation), *cache.held))
        for block, cache in zip(model.layers(), latents):
            q, k, v = block.project(x, rotation)
            x = block.update(x, _latest_see(q, *cache.add(k, v)))
        return x


def _latest_see(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What queries (1, H, T, D) of the latest T of K tokens find in all keys up to their own."""
    length, used = q.shape[2], keys.shape[2]
    seen = None if length == 1 else torch.ones(length, used, dtype=torch.bool).tril(used - length)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)
