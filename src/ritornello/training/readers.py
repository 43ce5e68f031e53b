"""How a model reads its training data: what it is fed, and what it carries from step to step."""

from __future__ import annotations

from typing import Any, Protocol

import torch
from torch import Tensor

from ritornello.corpus import Corpus
from ritornello.feed import Batch, CropBatch, Crops, Lanes
from ritornello.models import Model
from ritornello.models.dsmr import DSMR, State
from ritornello.models.perceivers import Perceiver
from ritornello.training.fitting import check_fits
from ritornello.training.recipes import Recipe


class Reader(Protocol):
    """A feed and what reading it takes."""

    @property
    def feed(self) -> Lanes | Crops:
        """Where batches come from."""

    def logits(self, batch: Any, inputs: Tensor) -> Tensor:
        """The model's logits for the batch's targets; ``inputs`` are the batch's, on the model's device."""

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved beside the feed's state."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""


class Streaming:
    """DSMR: lanes of consecutive segments; the state is carried, and detached at every segment's start."""

    def __init__(self, model: DSMR, corpus: Corpus, recipe: Recipe, seed: int) -> None:
        self._model = model
        self.feed: Lanes = Lanes(
            corpus,
            "train",
            lanes=recipe.lanes,
            segment_tokens=model.segment_tokens,
            seed=seed,
            augmentation=recipe.augmentation,
            grammar=recipe.legal,
        )
        longest = max(record.tokens for record in self.feed.records)
        check_fits(model.config, lanes=recipe.lanes, piece_tokens=longest, device=model.device)
        self._state = model.initial_state(recipe.lanes)

    def logits(self, batch: Batch, inputs: Tensor) -> Tensor:
        """(B, S, V)."""
        state = self._model.restart(self._state, torch.from_numpy(batch.starts))
        logits, self._state = self._model(inputs, state)
        return logits

    def tensors(self) -> dict[str, Tensor]:
        """The state's keys, values and positions."""
        kinds = {"keys": self._state.keys, "values": self._state.values}
        layers = {f"{kind}/{layer}": t for kind, tensors in kinds.items() for layer, t in enumerate(tensors)}
        return {**layers, "position": self._state.position}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back a state."""
        depth = range(self._model.config.schedule.layers)
        keys, values = (
            tuple(tensors[f"{kind}/{layer}"].to(self._model.device) for layer in depth) for kind in ("keys", "values")
        )
        self._state = State(keys, values, tensors["position"])


class Cropping:
    """Perceivers: crops that have nothing to do with each other."""

    def __init__(self, model: Perceiver, corpus: Corpus, recipe: Recipe, seed: int) -> None:
        self._model = model
        self.feed = Crops(
            corpus,
            "train",
            lanes=recipe.lanes,
            context_tokens=model.config.context_tokens,
            latents=model.config.latents,
            segmentation=recipe.segmentation,
            seed=seed,
            augmentation=recipe.augmentation,
            grammar=recipe.legal,
        )

    def logits(self, batch: CropBatch, inputs: Tensor) -> Tensor:
        """(B, Q, V)."""
        return self._model.crop(inputs, torch.from_numpy(batch.before))

    def tensors(self) -> dict[str, Tensor]:
        """Nothing is carried."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried."""


def reader_of(model: Model, corpus: Corpus, recipe: Recipe, seed: int) -> Reader:
    """The way that a model's family reads."""
    if isinstance(model, Perceiver):
        return Cropping(model, corpus, recipe, seed)
    return Streaming(model, corpus, recipe, seed)
