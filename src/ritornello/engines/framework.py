"""The training framework's engine: models in torch, with buffers allocated once and written in place.

What a layer remembers has room for its horizon and one segment. A token's key and value go to the next free slot; at a
segment's start the last H_l slots move to the front, once in S tokens. So a step copies nothing and needs no mask. For
a Perceiver the segment is the stride, and its window's latents are computed again at each start. Axes as in ``models``.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Protocol

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ritornello import codec
from ritornello.checkpoint import load_checkpoint
from ritornello.horizons import visible
from ritornello.models import Model, from_checkpoint
from ritornello.models.dsmr import DSMR, DSMRConfig
from ritornello.models.perceivers import Perceiver


class TorchEngine:
    """See `ritornello.engines.Engine`."""

    def __init__(
        self, model: Model, *, name: str = "", data: dict[str, str] | None = None, legal: bool = False
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
        """See `ritornello.engines.Engine`."""
        return torch.get_num_threads()

    @property
    def weight_bytes(self) -> int:
        """See `ritornello.engines.Engine`."""
        matrices = (module.weight for module in self.model.modules() if isinstance(module, nn.Linear))
        return sum(weight.numel() * weight.element_size() for weight in matrices)

    @property
    def memory_tokens(self) -> int:
        """See `ritornello.engines.Engine`; unlimited layers are taken to remember a segment."""
        config = self.model.config
        if isinstance(config, DSMRConfig):
            return max(h or 0 for h in config.schedule.horizons) + config.segment_tokens
        return config.context_tokens + config.stride_tokens

    @classmethod
    def load(cls, model: str, *, threads: int | None = None) -> TorchEngine:
        """From a bundled model's name or a checkpoint folder. Raises RitornelloError as `load_checkpoint` does."""
        checkpoint = load_checkpoint(model)
        if threads is not None:
            torch.set_num_threads(threads)
        legal = bool(checkpoint.progress.get("legal", False))
        return cls(from_checkpoint(checkpoint), name=str(model), data=checkpoint.data, legal=legal)

    def begin(self) -> TorchSession:
        """A session at the start of a piece."""
        return DSMRSession(self.model) if isinstance(self.model, DSMR) else PerceiverSession(self.model)


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


class TorchSession(Protocol):
    """See `ritornello.engines.Session`."""

    position: int
    """tokens read so far"""

    @property
    def nbytes(self) -> int:
        """Bytes of all that is remembered, allocated."""

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""

    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (T, V) of the event after each."""


class DSMRSession:
    """One lane of a DSMR in fixed memory."""

    def __init__(self, model: DSMR) -> None:
        self.position = 0
        self._model = model
        heads, size = model.config.heads, model.config.width // model.config.heads
        self._caches = [Cache(heads, size, slots=(h or 0) + model.segment_tokens) for h in self._horizons]
        self._motifs = _motif_memory(model)

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and motif memory, allocated."""
        return sum(cache.nbytes for cache in self._caches) + (self._motifs.nbytes if self._motifs else 0)

    @property
    def _horizons(self) -> tuple[int | None, ...]:
        return self._model.config.schedule.horizons

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""
        return self.score(tokens)[-1]

    @torch.inference_mode()
    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (T, V) of the event after each."""
        found = []
        for piece in _by_segments(tokens, self._motifs, self.position, self._model.segment_tokens):
            if self.position % self._model.segment_tokens == 0:
                for cache, horizon in zip(self._caches, self._horizons):
                    if horizon is not None:
                        cache.keep(horizon)
            found.append(self._model.predict(self._within_segment(piece))[0])
        return np.concatenate([logits.numpy() for logits in found])

    def _within_segment(self, tokens: Tensor) -> Tensor:
        model, length = self._model, tokens.shape[1]
        position = torch.arange(self.position, self.position + length)
        rotation = model.rotation(position[None])
        x = model.embed(tokens)
        for block, cache, horizon in zip(model.layers(), self._caches, self._horizons):
            q, k, v = block.project(x, rotation)
            keys, values = cache.add(k, v)
            seen = self._seen(position, cache.used, horizon)
            x = block.update(x, F.scaled_dot_product_attention(q, keys, values, attn_mask=seen))
        self.position += length
        return x

    def _seen(self, position: Tensor, used: int, horizon: int | None) -> Tensor | None:
        rule = self._model.config.schedule.rule
        if len(position) == 1 and rule == "segment":
            return None
        key = position[-1] + 1 - used + torch.arange(used)
        return visible(position[:, None], key, horizon=horizon, segment_tokens=self._model.segment_tokens, rule=rule)[
            None, None
        ]


class PerceiverSession:
    """One lane of a Perceiver in fixed memory."""

    def __init__(self, model: Perceiver) -> None:
        self.position = 0
        self._model = model
        config = model.config
        heads, size = config.heads, config.width // config.heads
        self._context = [Cache(heads, size, slots=reach + config.stride_tokens) for reach in config.reaches]
        self._latents = [Cache(heads, size, slots=config.latents) for _ in range(config.layers)]
        self._motifs = _motif_memory(model)
        self._tokens: Tensor | None = None  # of the window, or rows with hints, the oldest first

    @property
    def nbytes(self) -> int:
        """Bytes of keys, values and motif memory, allocated."""
        caches = sum(cache.nbytes for cache in self._context + self._latents)
        return caches + (self._motifs.nbytes if self._motifs else 0)

    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""
        return self.score(tokens)[-1]

    @torch.inference_mode()
    def score(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (T, V) of the event after each."""
        found = []
        for piece in _by_segments(tokens, self._motifs, self.position, self._model.segment_tokens):
            if self.position % self._model.segment_tokens == 0:
                self._move()
            found.append(self._model.predict(self._latents_of(piece, self.position, add_context=True))[0])
            self._tokens = piece if self._tokens is None else torch.cat([self._tokens, piece], dim=1)
            self.position += piece.shape[1]
        return np.concatenate([logits.numpy() for logits in found])

    def _move(self) -> None:
        """The window moves: contexts shrink to what it will see, its latents are computed again."""
        for cache, reach in zip(self._context, self._model.config.reaches):
            cache.keep(reach)
        for cache in self._latents:
            cache.keep(0)
        count = min(self.position, self._model.config.before_stride)
        if self._tokens is not None and count:
            self._tokens = self._tokens[:, self._tokens.shape[1] - count :]
            self._latents_of(self._tokens, self.position - count, add_context=False)

    def _latents_of(self, tokens: Tensor, first: int, *, add_context: bool) -> Tensor:
        """Latents (1, T, C) of tokens from position ``first`` on, the latest of the context."""
        model = self._model
        rotation = model.rotation(torch.arange(first, first + tokens.shape[1])[None])
        x = embedded = model.embed(tokens)
        for look, cache in zip(model.cross_attentions(), self._context):
            if add_context:
                cache.add(*look.context(embedded, rotation))
            x = look.update(x, _latest_see(look.queries(x, rotation), *cache.held))
        for block, cache in zip(model.layers(), self._latents):
            q, k, v = block.project(x, rotation)
            x = block.update(x, _latest_see(q, *cache.add(k, v)))
        return x


def _latest_see(q: Tensor, keys: Tensor, values: Tensor) -> Tensor:
    """What queries (1, H, T, D) of the latest T of K tokens find in all keys up to their own."""
    length, used = q.shape[2], keys.shape[2]
    seen = None if length == 1 else torch.ones(length, used, dtype=torch.bool).tril(used - length)
    return F.scaled_dot_product_attention(q, keys, values, attn_mask=seen)


def _motif_memory(model: Model) -> codec.MotifMemory | None:
    return codec.MotifMemory(model.config.motif_notes) if model.config.motif_notes else None


def _by_segments(
    tokens: NDArray[np.integer], motifs: codec.MotifMemory | None, position: int, segment_tokens: int
) -> Iterator[Tensor]:
    """Tokens (T,) as ids (1, T'), or as rows with hints (1, T', ...), cut where a segment begins."""
    if not len(tokens):
        raise ValueError("a session reads at least one token")
    pending = torch.from_numpy(codec.with_hints(tokens, motifs.read(tokens) if motifs else None))[None]
    while pending.shape[1]:
        length = segment_tokens - position % segment_tokens
        yield pending[:, :length]
        pending, position = pending[:, length:], position + length
