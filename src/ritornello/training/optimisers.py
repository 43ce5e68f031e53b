"""Muon or AdamW for the matrices of the layers, AdamW for the rest, or Adam; learning rates, state as tensors.

Muon is momentum whose matrices are orthogonalised before they are taken as updates, all matrices of a shape at once: K.
Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024; the update of ``torch.optim.Muon``, in
the parameters' precision. Newton-Schulz iterations are polynomials in the Gram matrix X X', so they are taken on it:
the long side of a matrix is multiplied twice instead of ten times. That needs all of float32, since small singular
values are squared; on CUDA, where bfloat16 is many times faster, the iterations are taken on X itself, which bears it.
Axes: N matrices of one shape (R, C).
"""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import AdamW, Optimizer

from ritornello.models.protocol import Model
from ritornello.training.recipes import Recipe

COEFFICIENTS = (3.4445, -4.7750, 2.0315)  # K. Jordan's: steepest at zero, singular values end within about 0.7 to 1.2
ITERATIONS = 5
SMALLEST_NORM = 1e-7


class Muon(Optimizer):
    """Muon with Nesterov momentum and decoupled weight decay, for matrices.

    Args:
        lr: learning rate; a tall matrix takes sqrt(R / C) of it.
        weight_decay: times ``lr``.
        momentum: of the running mean of gradients.
    """

    def __init__(self, matrices: Iterable[nn.Parameter], *, lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(matrices, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})

    @torch.no_grad()
    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """One update of every matrix that has a gradient."""
        if closure is not None:
            raise ValueError("Muon takes no closure")
        for group in self.param_groups:
            shapes: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for matrix in group["params"]:
                if matrix.grad is not None:
                    shapes[matrix.shape].append(matrix)
            for (rows, columns), matrices in shapes.items():
                gradients = [matrix.grad for matrix in matrices if matrix.grad is not None]
                means = [self._mean(matrix) for matrix in matrices]
                torch._foreach_lerp_(means, gradients, 1 - group["momentum"])
                ahead = torch._foreach_lerp(gradients, means, group["momentum"])
                updates = orthogonal(torch.stack(list(ahead)))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                step = group["lr"] * max(1, rows / columns) ** 0.5
                torch._foreach_add_(matrices, list(updates.unbind()), alpha=-step)

    def _mean(self, matrix: Tensor) -> Tensor:
        state = self.state[matrix]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(matrix)
        mean: Tensor = state["momentum_buffer"]
        return mean


def orthogonal(x: Tensor) -> Tensor:
    """(N, R, C) -> (N, R, C): about U V' of each matrix's singular value decomposition U S V'."""
    if x.shape[-2] > x.shape[-1]:
        return orthogonal(x.mT).mT
    x = x / x.norm(dim=(-2, -1), keepdim=True).clamp(min=SMALLEST_NORM)
    return in_bfloat16(x) if x.is_cuda else by_gram(x)


def by_gram(x: Tensor) -> Tensor:
    """The iterations on the Gram matrices of wide matrices (N, R, C) of norm 1."""
    a, b, c = COEFFICIENTS
    gram = x @ x.mT
    product = None
    for iteration in range(ITERATIONS):
        # X <- P X with P = a + b G + c G G; all that follow from G commute with it.
        polynomial = torch.baddbmm(gram, gram, gram, beta=b, alpha=c)
        polynomial.diagonal(dim1=-2, dim2=-1).add_(a)
        product = polynomial if product is None else polynomial @ product
        if iteration < ITERATIONS - 1:
            gram = polynomial @ gram @ polynomial
    assert product is not None
    return product @ x


def in_bfloat16(x: Tensor) -> Tensor:
    """The same as `by_gram`, on the matrices themselves."""
    a, b, c = COEFFICIENTS
    y = x.bfloat16()
    for _ in range(ITERATIONS):
        gram = y @ y.mT
        y = torch.baddbmm(y, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), y, beta=a)
    return y.to(x.dtype)


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

    Or a fall with the inverse square root of the steps, from the end of the warm-up on. ``step`` counts those before
    this one; ``progress`` is the share of the whole run that is done, 0 to 1.
    """
    rise = min(1.0, (step + 1) / recipe.warmup_steps) if recipe.warmup_steps else 1.0
    if recipe.decay == "inverse_sqrt":
        return min(rise, math.sqrt(max(1, recipe.warmup_steps) / (step + 1)))
    fall = min(1.0, (1.0 - progress) / recipe.decay_share) if recipe.decay_share else 1.0
    return rise * max(fall, 0.0)
