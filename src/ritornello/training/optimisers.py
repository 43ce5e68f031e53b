"""Muon or AdamW for the matrices of the layers, AdamW for the rest, or Adam; learning rates, state as tensors."""

from __future__ import annotations

import math
from collections.abc import Iterable
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ritornello.models.protocol import Model
from ritornello.training.muon import Muon
from ritornello.training.recipes import Recipe


class Optimisers:
    """The optimisers of one model as one thing."""

    def __init__(self, model: Model[Any], recipe: Recipe) -> None:
        matrices, others = model.parameter_groups()
        fused = model.device.type == "cuda"
        # Plain Adam (arXiv 1412.6980) is AdamW without decay, with the constants of its paper.
        betas, eps = ((0.9, 0.999), 1e-8) if recipe.optimiser == "adam" else ((0.9, 0.95), 1e-10)

        def adamw(parameters: Iterable[nn.Parameter], lr: float, decay: float) -> AdamW:
            return AdamW(parameters, lr=lr, betas=betas, eps=eps, weight_decay=decay, fused=fused)

        first: Optimizer  # the gains and the embedding are not pulled towards zero; the matrices are
        if recipe.optimiser == "muon":
            first = Muon(matrices.values(), lr=recipe.matrix_lr, weight_decay=recipe.weight_decay, momentum=0.95)
        else:
            first = adamw(matrices.values(), recipe.matrix_lr, recipe.weight_decay)
        labels = {name: others.pop(name) for name in list(others) if name.startswith("label_embedding.")}
        # By what each does; the names are those of the tensors in checkpoints.
        self._parts: dict[str, tuple[Optimizer, list[str], float]] = {
            "muon" if recipe.optimiser == "muon" else "matrices": (first, list(matrices), recipe.matrix_lr),
            "adamw": (adamw(others.values(), recipe.other_lr, 0.0), list(others), recipe.other_lr),
        }
        if labels:
            self._parts["labels"] = (adamw(labels.values(), recipe.label_lr, 0.0), list(labels), recipe.label_lr)

    def step(self, factor: float) -> None:
        """One update with the peak learning rates times ``factor``; gradients are dropped afterwards."""
        for optimiser, _, peak in self._parts.values():
            for group in optimiser.param_groups:
                group["lr"] = peak * factor
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)

    def tensors(self) -> dict[str, Tensor]:
        """The whole state, by optimiser, parameter and quantity."""
        return {
            f"{part}/{names[index]}/{quantity}": tensor
            for part, (optimiser, names, _) in self._parts.items()
            for index, quantities in optimiser.state_dict()["state"].items()
            for quantity, tensor in quantities.items()
        }

    def restore(self, tensors: dict[str, Tensor]) -> None:
        """Puts back what `tensors` gave."""
        for part, (optimiser, names, _) in self._parts.items():
            state: dict[int, dict[str, Tensor]] = {}
            for index, name in enumerate(names):
                prefix = f"{part}/{name}/"
                quantities = {key[len(prefix) :]: t for key, t in tensors.items() if key.startswith(prefix)}
                if quantities:
                    state[index] = quantities
            optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def learning_rate_factor(recipe: Recipe, *, step: int, progress: float) -> float:
    """Share of the peak learning rate: a linear rise over the warm-up, then a plateau and a linear fall to zero.

    Or a fall with the inverse square root of the steps, from the end of the warm-up on.

    Args:
        recipe: warm-up and decay.
        step: steps taken before this one.
        progress: share of the whole run that is done, 0 to 1.
    """
    rise = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.decay == "inverse_sqrt":
        return min(rise, math.sqrt(max(1, recipe.warmup_steps) / (step + 1)))
    fall = min(1.0, (1.0 - progress) / recipe.decay_share) if recipe.decay_share else 1.0
    return rise * max(fall, 0.0)
