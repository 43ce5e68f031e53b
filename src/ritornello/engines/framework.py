"""The training framework's engine: DSMR in torch, with buffers allocated once and written in place.

Every layer has room for its horizon and one segment. A token's key and value go to the next free slot; at a segment's
start the last H_l slots move to the front, once in S tokens. So a step copies nothing and needs no mask.
Axes as in ``models.dsmr``.
"""

from __future__ import annotations

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor, nn

from ritornello.checkpoint import load_checkpoint
from ritornello.horizons import visible
from ritornello.models import from_checkpoint
from ritornello.models.dsmr import DSMR


class TorchEngine:
    """See `ritornello.engines.Engine`."""

    def __init__(self, model: DSMR, *, name: str = "", data: dict[str, str] | None = None) -> None:
        self.model = model.eval()
        for module in model.modules():
            if isinstance(module, nn.Linear):  # laid out by columns: one token's product is faster on a CPU
                module.weight.data = module.weight.data.t().contiguous().t()
        self.name = name
        self.data = data or {}

    @classmethod
    def load(cls, model: str) -> TorchEngine:
        """From a bundled model's name or a checkpoint folder. Raises RitornelloError as `load_checkpoint` does."""
        checkpoint = load_checkpoint(model)
        return cls(from_checkpoint(checkpoint), name=str(model), data=checkpoint.data)

    def begin(self) -> TorchSession:
        """A session at the start of a piece."""
        return TorchSession(self.model)


class TorchSession:
    """One lane of a DSMR in fixed memory; layers of unlimited horizon double theirs when it is full."""

    def __init__(self, model: DSMR) -> None:
        self.position = 0
        self._model = model
        heads, size = model.config.heads, model.config.width // model.config.heads
        self._used = [0] * len(model.blocks)
        self._buffers = [
            torch.zeros(2, 1, heads, (horizon or 0) + model.segment_tokens, size) for horizon in self._horizons
        ]

    @property
    def nbytes(self) -> int:
        """Bytes of keys and values, allocated."""
        return sum(buffer.numel() * buffer.element_size() for buffer in self._buffers)

    @property
    def _horizons(self) -> tuple[int | None, ...]:
        return self._model.config.schedule.horizons

    @torch.inference_mode()
    def read(self, tokens: NDArray[np.integer]) -> NDArray[np.float32]:
        """Takes tokens (T,), T >= 1, and gives the logits (V,) of the event after the last."""
        pending = torch.from_numpy(np.asarray(tokens, np.int64))[None]
        if not pending.shape[1]:
            raise ValueError("a session reads at least one token")
        while pending.shape[1]:
            phase = self.position % self._model.segment_tokens
            if phase == 0:
                self._forget()
            length = min(pending.shape[1], self._model.segment_tokens - phase)
            x = self._within_segment(pending[:, :length])
            pending = pending[:, length:]
        logits: NDArray[np.float32] = self._model.predict(x[:, -1:])[0, 0].numpy()
        return logits

    def _within_segment(self, tokens: Tensor) -> Tensor:
        model, length = self._model, tokens.shape[1]
        position = torch.arange(self.position, self.position + length)
        rotation = model.rotation(position[None])
        x = model.embed(tokens)
        for layer, (block, horizon) in enumerate(zip(model.layers(), self._horizons)):
            q, k, v = block.project(x, rotation)
            used = self._used[layer] = self._used[layer] + length
            keys, values = self._room(layer, used)
            keys[:, :, used - length : used] = k
            values[:, :, used - length : used] = v
            seen = self._seen(position, used, horizon)
            found = F.scaled_dot_product_attention(q, keys[:, :, :used], values[:, :, :used], attn_mask=seen)
            x = block.update(x, found)
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

    def _room(self, layer: int, slots: int) -> Tensor:
        buffer = self._buffers[layer]
        if slots > buffer.shape[3]:
            buffer = self._buffers[layer] = torch.cat([buffer, torch.zeros_like(buffer)], dim=3)
        return buffer

    def _forget(self) -> None:
        """At a segment's start: each layer keeps its last H_l slots."""
        for layer, horizon in enumerate(self._horizons):
            used = self._used[layer]
            if horizon is None or used <= horizon:
                continue
            buffer = self._buffers[layer]
            buffer[:, :, :, :horizon] = buffer[:, :, :, used - horizon : used].clone()
            self._used[layer] = horizon
