"""How a model reads its training data: what it is fed, and what it carries from step to step."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from ritornello.corpus import Corpus
from ritornello.feed import Batch, CropBatch, Crops, Lanes
from ritornello.models.config import CropSizes
from ritornello.models.protocol import Model, named_tensors, with_tensors
from ritornello.training import fitting
from ritornello.training.precision import Precision
from ritornello.training.recipes import Recipe


class Reader:
    """A feed and what reading it takes."""

    feed: Lanes | Crops
    """where batches come from"""

    def logits(self, batch: Any, inputs: Tensor, progress: float) -> Tensor:
        """The model's logits for the batch's targets.

        Args:
            batch: of the feed.
            inputs: the batch's, on the model's device.
            progress: share of the run that is done, 0 to 1.
        """
        raise NotImplementedError

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved beside the feed's state; nothing if nothing is carried."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""


class Streaming(Reader):
    """Lanes of consecutive segments; the state is carried, and detached at every segment's start."""

    def __init__(self, model: Model[Any], corpus: Corpus, recipe: Recipe, seed: int, precision: Precision) -> None:
        self._model = model
        self.feed = Lanes(
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
            labels=model.config.labels,
            told=recipe.told,
        )
        memories = fitting.memories_of(model.config, recipe, corpus, device=model.device, precision=precision)
        memories.check_fit(fitting.free_bytes(model.device))
        self._growing, schedule = recipe.growing, model.config.schedule
        self._furthest_tokens = max(h or 0 for h in schedule.after(memories.piece_tokens).horizons) if schedule else 0
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
        """Each group's state; the first group's names are those of a run without groups."""
        return {
            f"{name}{_of(group)}": tensor
            for group, state in enumerate(self._states)
            for name, tensor in named_tensors(state).items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back states."""
        for group, state in enumerate(self._states):
            saved = {name: tensors[f"{name}{_of(group)}"].to(t.device) for name, t in named_tensors(state).items()}
            self._states[group] = with_tensors(state, saved)


class Cropping(Reader):
    """Crops that have nothing to do with each other."""

    def __init__(self, model: Model[Any], sizes: CropSizes, corpus: Corpus, recipe: Recipe, seed: int) -> None:
        self._model = model
        self.feed = Crops(
            corpus,
            "train",
            lanes=recipe.lanes,
            context_tokens=sizes.context_tokens,
            latents=sizes.latents,
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


def _in(precision: Precision, state: Any) -> Any:
    """A state whose room takes no more than what will fill it."""
    if precision == "fp32":
        return state
    tensors = named_tensors(state)
    return with_tensors(state, {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()})


def _of(group: int) -> str:
    return f"/group {group}" if group else ""


def reader_of(model: Model[Any], corpus: Corpus, recipe: Recipe, seed: int, precision: Precision = "fp32") -> Reader:
    """The way that a model's family reads; what it remembers is in the precision of its matrix products."""
    crops = model.config.crops
    if crops:
        return Cropping(model, crops, corpus, recipe, seed)
    return Streaming(model, corpus, recipe, seed, precision)
