"""How a model reads its training data: what it is fed, and what it carries from step to step."""

from __future__ import annotations

import math
from typing import Any, Protocol

import torch
from torch import Tensor

from ritornello.corpus import Corpus
from ritornello.feed import Batch, CropBatch, Crops, Lanes
from ritornello.models import Model
from ritornello.models.dsmr import DSMR, State
from ritornello.models.perceivers import Perceiver
from ritornello.training import fitting
from ritornello.training.precision import Precision
from ritornello.training.recipes import Recipe


class Reader(Protocol):
    """A feed and what reading it takes."""

    @property
    def feed(self) -> Lanes | Crops:
        """Where batches come from."""

    def logits(self, batch: Any, inputs: Tensor, progress: float) -> Tensor:
        """The model's logits for the batch's targets.

        Args:
            batch: of the feed.
            inputs: the batch's, on the model's device.
            progress: share of the run that is done, 0 to 1.
        """

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved beside the feed's state."""

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""


class Streaming:
    """DSMR: lanes of consecutive segments; the state is carried, and detached at every segment's start."""

    def __init__(self, model: DSMR, corpus: Corpus, recipe: Recipe, seed: int, precision: Precision) -> None:
        self._model = model
        self.feed: Lanes = Lanes(
            corpus,
            "train",
            lanes=recipe.lanes,
            segment_tokens=model.segment_tokens,
            groups=recipe.groups,
            by_title=recipe.by_title,
            piece_tokens=recipe.piece_tokens,
            seed=seed,
            augmentation=recipe.augmentation,
            grammar=recipe.legal,
            motif_notes=model.config.motif_notes,
        )
        memories = fitting.memories_of(model.config, recipe, corpus, device=model.device, precision=precision)
        memories.check_fit(fitting.free_bytes(model.device))
        self._growing = recipe.growing
        horizons = model.config.schedule.horizons
        self._furthest_tokens = max(memories.piece_tokens if h is None else h for h in horizons)
        self._states = [_in(precision, model.initial_state(recipe.lanes)) for _ in range(recipe.groups)]

    def logits(self, batch: Batch, inputs: Tensor, progress: float) -> Tensor:
        """(B, S, V)."""
        self._model.sight_tokens = self._sight_tokens(progress)
        state = self._model.restart(self._states[batch.group], torch.from_numpy(batch.starts))
        logits, self._states[batch.group] = self._model(inputs, state)
        return logits

    def _sight_tokens(self, progress: float) -> int | None:
        """How much of its memory a layer sees: a segment, doubled until the furthest horizon; then all."""
        segment_tokens = self._model.segment_tokens
        doublings = math.ceil(math.log2(max(1, self._furthest_tokens / segment_tokens)))
        if progress >= self._growing or not doublings:
            return None
        return segment_tokens << int(doublings * progress / self._growing)

    def tensors(self) -> dict[str, Tensor]:
        """Each group's keys, values and positions; the first group's names are those of a run without groups."""
        found: dict[str, Tensor] = {}
        for group, state in enumerate(self._states):
            for kind, tensors in (("keys", state.keys), ("values", state.values)):
                found |= {f"{kind}/{layer}{_of(group)}": tensor for layer, tensor in enumerate(tensors)}
            found[f"position{_of(group)}"] = state.position
        return found

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back states."""
        depth, device = range(self._model.config.schedule.layers), self._model.device
        for group in range(len(self._states)):
            keys, values = (
                tuple(tensors[f"{kind}/{layer}{_of(group)}"].to(device) for layer in depth)
                for kind in ("keys", "values")
            )
            self._states[group] = State(keys, values, tensors[f"position{_of(group)}"])


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
            piece_tokens=recipe.piece_tokens,
            seed=seed,
            augmentation=recipe.augmentation,
            grammar=recipe.legal,
            motif_notes=model.config.motif_notes,
        )

    def logits(self, batch: CropBatch, inputs: Tensor, progress: float) -> Tensor:
        """(B, Q, V)."""
        return self._model.crop(inputs, torch.from_numpy(batch.before))

    def tensors(self) -> dict[str, Tensor]:
        """Nothing is carried."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Nothing is carried."""


def _in(precision: Precision, state: State) -> State:
    """A state whose room takes no more than what will fill it."""
    if precision == "fp32":
        return state
    keys, values = (tuple(t.bfloat16() for t in tensors) for tensors in (state.keys, state.values))
    return state._replace(keys=keys, values=values)


def _of(group: int) -> str:
    return f"/group {group}" if group else ""


def reader_of(model: Model, corpus: Corpus, recipe: Recipe, seed: int, precision: Precision = "fp32") -> Reader:
    """The way that a model's family reads; what it remembers is in the precision of its matrix products."""
    if isinstance(model, Perceiver):
        return Cropping(model, corpus, recipe, seed)
    return Streaming(model, corpus, recipe, seed, precision)
