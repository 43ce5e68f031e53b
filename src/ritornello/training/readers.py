"""How a model reads its training data: what it is fed, what it carries from step to step, and the loss of a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from ritornello.corpus import Corpus
from ritornello.evaluation import evaluate
from ritornello.feed import Batch, CropBatch, Crops, Lanes
from ritornello.likelihood import autocast, to_device, token_nats
from ritornello.models.protocol import Model, named_tensors, with_tensors
from ritornello.training import fitting
from ritornello.training.fitting import Precision
from ritornello.training.ranks import ALONE, Ranks
from ritornello.training.recipes import Recipe

CALLED = 0.5
"""share of the returns that a model learns to be called back to; the others it is to find by itself"""
LEAST_SPAN = 16  # tokens of memory that an elastic step leaves, at least


@dataclass(eq=False)
class Reader:
    """A feed and what reading it takes. Axes: B lanes or crops, T tokens that each predicts in a step."""

    model: Model[Any]
    corpus: Corpus
    recipe: Recipe
    seed: int
    precision: Precision
    """of matrix products, and of what is remembered"""
    ranks: Ranks = ALONE
    feed: Lanes | Crops = field(init=False)
    """where batches come from"""

    def __post_init__(self) -> None:
        recipe, pieces = self.recipe, len(self.corpus.pieces("validation"))
        # As many as the recipe says, always the same; all where it says none.
        self._validation_pieces = np.random.default_rng(0).permutation(pieces)[: recipe.validation_pieces].tolist()
        self._own = self.ranks.share(recipe.lanes)
        self._feeding: dict[str, Any] = {
            "lanes": recipe.lanes,
            "piece_tokens": recipe.piece_tokens,
            "seed": self.seed,
            "augmentation": recipe.augmentation,
            "grammar": recipe.legal,
            "motif_notes": self.model.config.motif_notes,
            "share": self._own,
            "exchange": self.ranks.merged,
        }

    def nats(self, batch: Any, progress: float) -> Tensor:
        """-ln p of each target of a batch of the feed, (B, T), with gradients; what is carried moves on."""
        device = self.model.device
        targets = torch.from_numpy(batch.targets).to(device, non_blocking=True)
        inputs = torch.from_numpy(batch.inputs).to(device, non_blocking=True)
        with autocast(device, self.precision):
            logits = self.logits(batch, inputs, progress)
        return token_nats(logits, targets, to_device(batch.context, device))

    def logits(self, batch: Any, inputs: Tensor, progress: float) -> Tensor:
        """The model's logits (B, T, V) for the batch's targets, from its inputs on the model's device."""
        raise NotImplementedError

    def validate(self, progress: float) -> float:
        """Nats/token of whole validation pieces, the same in every run of a recipe; each rank reads its share."""
        model, pieces = self._validated(progress), self._validation_pieces
        how: dict[str, Any] = {"legal": self.recipe.legal, "precision": self.precision, "ranks": self.ranks}
        return evaluate(model, self.corpus, "validation", pieces=pieces, **how).nats_per_token

    def _validated(self, progress: float) -> Model[Any]:
        return self.model

    def tensors(self) -> dict[str, Tensor]:
        """What must be saved beside the feed's state; nothing if nothing is carried."""
        return {}

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""


class Streaming(Reader):
    """Lanes of consecutive segments; the state is carried, and detached at every segment's start."""

    def __post_init__(self) -> None:
        super().__post_init__()
        model, recipe, precision = self.model, self.recipe, self.precision
        self.feed = self._lanes(
            segment_tokens=model.segment_tokens,
            interleave=recipe.interleave,
            balance_titles=recipe.balance_titles,
            labels=model.config.labels,
            label_share=recipe.label_share,
            called=CALLED if model.config.recalls else 0.0,
            **self._feeding,
        )
        lanes = self._own.stop - self._own.start
        own = replace(recipe, lanes=lanes)
        memories = fitting.memories_of(model.config, own, self.corpus, device=model.device, precision=precision)
        memories.check_fit(fitting.free_bytes(model.device))
        schedule = model.config.schedule
        self._furthest_tokens = max(h or 0 for h in schedule.after(memories.piece_tokens).horizons) if schedule else 0
        self._states = [_in(precision, model.initial_state(lanes)) for _ in range(recipe.interleave)]

    def _lanes(self, **how: Any) -> Lanes:
        return Lanes(self.corpus, "train", **how)

    def logits(self, batch: Batch, inputs: Tensor, progress: float) -> Tensor:
        """(B, S, V)."""
        state = self.model.restart(self._states[batch.group], torch.from_numpy(batch.starts))
        span_tokens = self._drawn_span(progress)
        less = {} if span_tokens is None else {"span_tokens": span_tokens}
        logits, self._states[batch.group] = self.model(inputs, state, **less)
        return logits

    def _validated(self, progress: float) -> Model[Any]:
        """The model with the horizons of what it sees by now."""
        schedule, most = self.model.config.schedule, self._span_tokens(progress)
        if schedule is None or most is None:
            return self.model
        return self.model.rescheduled(schedule.limited(most))

    def _span_tokens(self, progress: float) -> int | None:
        """How much of its memory a layer sees: a segment, doubled until the furthest horizon; then all."""
        warmup_share = self.recipe.horizon_warmup_share
        spans = doubled(self.model.segment_tokens, self._furthest_tokens)[:-1]
        return spans[int(len(spans) * progress / warmup_share)] if progress < warmup_share and spans else None

    def _drawn_span(self, progress: float) -> int | None:
        """In the recipe's ``elastic_share`` of the steps less: `LEAST_SPAN` or its double or ..., each as often.

        A step's is drawn by the run's seed and its progress: the same on any device, on every rank, and on resumption.
        """
        most, share = self._span_tokens(progress), self.recipe.elastic_share
        rng = np.random.default_rng([self.seed, int(progress * 2**52)]) if share else None
        if rng is None or rng.random() >= share:
            return most
        return int(rng.choice(doubled(LEAST_SPAN, self._furthest_tokens if most is None else most)))

    def tensors(self) -> dict[str, Tensor]:
        """Each group's state, of all ranks' lanes; the first group's names are those of a run without groups."""
        own = {
            f"{name}{_of(group)}": tensor
            for group, state in enumerate(self._states)
            for name, tensor in named_tensors(state).items()
        }
        return self.ranks.joined(own)

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back the states of this rank's lanes."""
        for group, state in enumerate(self._states):
            saved = {n: tensors[f"{n}{_of(group)}"][self._own].to(t.device) for n, t in named_tensors(state).items()}
            self._states[group] = with_tensors(state, saved)


def doubled(first: int, last: int) -> list[int]:
    """``first``, its double, and so on, as far as one that is ``last`` or more."""
    return [first << n for n in range(1 + math.ceil(math.log2(max(1, last / first))))]


def spans_of(recipe: Recipe, segment_tokens: int, furthest_tokens: int) -> set[int]:
    """All parts of memories, in tokens, that a training may come to see alone."""
    warming = doubled(segment_tokens, furthest_tokens)[:-1] if recipe.horizon_warmup_share else []
    drawn = doubled(LEAST_SPAN, max([furthest_tokens, *warming])) if recipe.elastic_share else []
    return {*warming, *drawn}


class Cropping(Reader):
    """Crops that have nothing to do with each other."""

    def __post_init__(self) -> None:
        super().__post_init__()
        assert self.model.config.crops
        sizes = self.model.config.crops._asdict()
        self.feed = Crops(self.corpus, "train", segmentation=self.recipe.segmentation, **sizes, **self._feeding)

    def logits(self, batch: CropBatch, inputs: Tensor, progress: float) -> Tensor:
        """(B, Q, V)."""
        return self.model.crop(inputs, torch.from_numpy(batch.before))


def reader_of(
    model: Model[Any], corpus: Corpus, recipe: Recipe, seed: int, precision: Precision = "fp32", ranks: Ranks = ALONE
) -> Reader:
    """The way that a model's family reads; what it remembers is in the precision of its matrix products."""
    if model.device.type == "cuda":
        from ritornello.training.fast import fast_reader

        fast = fast_reader(model, corpus, recipe, seed, precision, ranks)
        if fast is not None:
            return fast
    return (Cropping if model.config.crops else Streaming)(model, corpus, recipe, seed, precision, ranks)


def _in(precision: Precision, state: Any) -> Any:
    """A state whose room takes no more than what will fill it."""
    if precision == "fp32":
        return state
    tensors = named_tensors(state)
    return with_tensors(state, {n: t.bfloat16() if t.is_floating_point() else t for n, t in tensors.items()})


def _of(group: int) -> str:
    return f"/group {group}" if group else ""
