"""Muon: its updates are those of a direct Newton-Schulz iteration and of torch's own, one matrix at a time."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from tiny import random_model
from torch import Tensor, nn

from ritornello.errors import RitornelloError
from ritornello.training.optimisers import Muon, Optimisers, by_gram, in_bfloat16, orthogonal
from ritornello.training.recipes import Recipe

Array = NDArray[np.float64]
SHAPES = [(6, 6), (4, 9), (9, 4), (1, 5), (5, 1), (3, 96), (96, 3)]


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype)


def newton_schulz(x: Array) -> Array:
    """K. Jordan's five steps, as he writes them: on the matrix itself, wide side last."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T).T
    x = x / max(math.sqrt((x * x).sum()), 1e-7)
    for _ in range(5):
        gram = x @ x.T
        x = 3.4445 * x + (-4.7750 * gram + 2.0315 * gram @ gram) @ x
    return x


# Orthogonal.


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-4)], ids=str)
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_several_matrices_at_once_are_newton_schulz_of_each(
    shape: tuple[int, int], dtype: torch.dtype, tolerance: float
) -> None:
    x = drawn(3, *shape) * torch.tensor([1e-5, 1.0, 1e5])[:, None, None]
    found = orthogonal(x.to(dtype))
    assert (found.shape, found.dtype) == (x.shape, dtype)
    for one, given in zip(found, x):
        assert np.abs(one.double().numpy() - newton_schulz(given.numpy())).max() < tolerance


@pytest.mark.parametrize("shape", [(24, 24), (24, 60), (60, 24)], ids=str)
def test_single_precision_is_enough_for_gradients_of_low_rank(shape: tuple[int, int]) -> None:
    """Of rank 5, with noise a million times smaller: the Gram matrix squares what was small."""
    x = drawn(shape[0], 5) @ drawn(5, shape[1], seed=1) + 1e-6 * drawn(*shape, seed=2)
    found = orthogonal(x.float()[None])[0].double().numpy()
    assert np.abs(found - newton_schulz(x.numpy())).max() < 1e-3


@pytest.mark.parametrize("shape", [(32, 32), (32, 80), (80, 32)], ids=str)
def test_singular_values_end_about_one_and_directions_stay(shape: tuple[int, int]) -> None:
    short = min(shape)
    u, v = (torch.linalg.qr(drawn(side, short, seed=side + n))[0] for n, side in enumerate(shape))
    x = u * torch.linspace(1, 30, short, dtype=torch.float64) @ v.mT
    found = orthogonal(x[None])[0]
    turned = u.mT @ found @ v
    assert (turned - turned.diagonal().diag()).abs().max() < 1e-12
    assert turned.diagonal().min() > 0.6
    assert turned.diagonal().max() < 1.3
    assert torch.linalg.norm(found - u @ turned @ v.mT) < 1e-12


@pytest.mark.parametrize("shape", [(48, 48), (48, 128)], ids=str)
@pytest.mark.parametrize("decades", [0, 3, 5])
def test_bfloat16_is_enough_on_the_matrices_themselves_and_not_on_their_gram_matrices(
    shape: tuple[int, int], decades: int
) -> None:
    """A spectrum over decades, as late gradients have it: none of its values may end far above 1."""
    u, v = (torch.linalg.qr(drawn(side, shape[0], seed=side + n))[0] for n, side in enumerate(shape))
    x = u * torch.logspace(0, -decades, shape[0], dtype=torch.float64) @ v.mT
    x = (x / x.norm())[None]
    found = in_bfloat16(x)[0]
    assert found.dtype == x.dtype
    assert torch.linalg.svdvals(found).max() < 1.3
    large = u[:, :6], v[:, :6]  # the first directions, which hold most of a gradient, go where they do in float64
    exact = large[0].mT @ by_gram(x)[0] @ large[1]
    assert (large[0].mT @ found @ large[1] - exact).abs().max() < 0.06
    if decades == 5:
        assert torch.linalg.svdvals(by_gram(x.bfloat16())[0].double()).max() > 1.5


def test_a_gradient_of_zeros_moves_nothing() -> None:
    """Beside another of its shape, too."""
    found = orthogonal(torch.stack([torch.zeros(3, 5), torch.ones(3, 5)]))
    assert not found[0].any()
    assert found[1].isfinite().all()


# The optimiser.


def stepped(kind: type[torch.optim.Optimizer], steps: int = 6, dtype: torch.dtype = torch.float32) -> list[Array]:
    """Matrices of several shapes, some alike, after steps with gradients that depend on where they are."""
    shapes = [(8, 8), (6, 12), (8, 8), (12, 6), (6, 12)]
    weights = [nn.Parameter(drawn(*shape, seed=i, dtype=dtype)) for i, shape in enumerate(shapes)]
    optimiser = kind(weights, lr=0.05, weight_decay=0.3, momentum=0.9)
    for step in range(steps):
        for i, weight in enumerate(weights):
            weight.grad = drawn(*weight.shape, seed=100 * step + i, dtype=dtype) + weight.detach()
        optimiser.step()
    return [weight.detach().double().numpy() for weight in weights]


class ByHand(torch.optim.Optimizer):
    """Muon in float64, one matrix after the other, from its publication."""

    def __init__(self, weights: list[nn.Parameter], *, lr: float, weight_decay: float, momentum: float) -> None:
        super().__init__(weights, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        self.means = [np.zeros(weight.shape) for weight in weights]

    def step(self, closure: None = None) -> None:  # type: ignore[override]
        (group,) = self.param_groups
        lr, decay, momentum = group["lr"], group["weight_decay"], group["momentum"]
        for i, weight in enumerate(group["params"]):
            gradient, (rows, columns) = weight.grad.numpy(), weight.shape
            self.means[i] = momentum * self.means[i] + (1 - momentum) * gradient
            ahead = (1 - momentum) * gradient + momentum * self.means[i]  # Nesterov's
            update = newton_schulz(ahead) * math.sqrt(max(1, rows / columns))
            weight.data = torch.from_numpy(weight.detach().numpy() * (1 - lr * decay) - lr * update)


def test_steps_are_those_of_the_publication() -> None:
    for found, expected in zip(stepped(Muon, dtype=torch.float64), stepped(ByHand, dtype=torch.float64)):
        assert np.abs(found - expected).max() < 1e-12


def test_steps_are_those_of_torchs_own_muon() -> None:
    """Which iterates in bfloat16: each of six steps of 0.05 may be off by some percent."""
    for found, expected, start in zip(stepped(Muon), stepped(torch.optim.Muon), stepped(Muon, steps=0)):
        assert np.abs(found - expected).max() < 0.02
        assert np.linalg.norm(found - expected) < 0.03 * np.linalg.norm(found - start)


def test_matrices_without_a_gradient_are_left_alone() -> None:
    """No decay, no momentum; and those beside them are updated as if they were alone."""
    idle, busy, alone = (nn.Parameter(drawn(4, 6, seed=seed)) for seed in (1, 2, 2))
    together, single = (Muon(ws, lr=0.1, weight_decay=0.5, momentum=0.9) for ws in ([idle, busy], [alone]))
    for step in range(3):
        busy.grad, alone.grad = (drawn(4, 6, seed=10 + step) for _ in range(2))
        together.step()
        single.step()
    assert torch.equal(idle, drawn(4, 6, seed=1))
    assert idle not in together.state
    assert torch.allclose(busy, alone, rtol=0, atol=1e-12)
    assert not torch.equal(busy, drawn(4, 6, seed=2))


def test_a_step_does_not_touch_the_gradients() -> None:
    weights = [nn.Parameter(drawn(4, 6, seed=seed)) for seed in (1, 2)]
    for weight in weights:
        weight.grad = drawn(4, 6, seed=3)
    Muon(weights, lr=0.1, weight_decay=0.5, momentum=0.9).step()
    assert all(weight.grad is not None and torch.equal(weight.grad, drawn(4, 6, seed=3)) for weight in weights)


def test_a_closure_is_a_bug_of_the_caller() -> None:
    with pytest.raises(ValueError, match="closure"):
        Muon([nn.Parameter(drawn(2, 2))], lr=0.1, weight_decay=0.0, momentum=0.9).step(lambda: 0.0)


@pytest.mark.parametrize(
    ("optimiser", "part", "kept"),
    [
        ("muon", "muon", ("momentum_buffer",)),
        ("adamw", "matrices", ("exp_avg", "exp_avg_sq", "step")),
        ("adam", "matrices", ("exp_avg", "exp_avg_sq", "step")),
    ],
)
def test_a_restored_optimiser_goes_on_to_the_bit(optimiser: str, part: str, kept: tuple[str, ...]) -> None:
    """Of a model one layer of which has had no gradient yet; through tensors as they are in a checkpoint."""
    decay = 0.0 if optimiser == "adam" else 0.01
    sizes = {"model": random_model(1).config, "lanes": 1, "steps": 1}
    recipe = Recipe(name="of the tests", **sizes, optimiser=optimiser, weight_decay=decay)

    def learn(model: nn.Module, optimisers: Optimisers, step: int) -> None:
        for i, (name, weight) in enumerate(model.named_parameters()):
            if step >= 4 or not name.startswith("blocks.1."):
                weight.grad = drawn(*weight.shape, seed=100 * step + i, dtype=weight.dtype)
        optimisers.step(0.5)

    model, twin = random_model(1), random_model(2)
    optimisers, resumed = (Optimisers(m, recipe) for m in (model, twin))
    for step in range(3):
        learn(model, optimisers, step)
    tensors = {name: tensor.clone() for name, tensor in optimisers.tensors().items()}
    of_matrices = {name for name in tensors if name.startswith(f"{part}/")}
    matrices = [f"{part}/blocks.0.{name}.weight" for name in ("qkv", "out", "gate_up", "down")]
    assert of_matrices == {f"{matrix}/{quantity}" for matrix in matrices for quantity in kept}
    twin.load_state_dict(model.state_dict())
    resumed.restore(tensors)
    for step in range(3, 6):
        learn(model, optimisers, step)
        learn(twin, resumed, step)
    for name, weight in model.named_parameters():
        assert torch.equal(weight, twin.get_parameter(name)), name
    assert resumed.tensors().keys() == optimisers.tensors().keys() > tensors.keys()


def test_adamw_has_the_matrices_where_the_recipe_says_so() -> None:
    """Their own rate and decay, and everything else as with Muon."""
    recipe = Recipe(
        name="of the tests", model=random_model(1).config, lanes=1, steps=1, matrix_lr=0.003, weight_decay=0.1
    )
    ours, of_muon = random_model(1), random_model(1)
    for model, optimiser in ((ours, "adamw"), (of_muon, "muon")):
        for i, weight in enumerate(model.parameters()):
            weight.grad = drawn(*weight.shape, seed=i, dtype=weight.dtype)
        Optimisers(model, replace(recipe, optimiser=optimiser)).step(0.5)
    for name, weight in random_model(1).named_parameters():
        if not name.startswith("blocks.") or weight.ndim != 2:
            assert torch.equal(ours.get_parameter(name), of_muon.get_parameter(name)), name
            continue
        # The first step of Adam is the sign of the gradient; half the peak rate, decay decoupled.
        sign = drawn(*weight.shape, seed=list(dict(ours.named_parameters())).index(name), dtype=weight.dtype).sign()
        expected = weight * (1 - 0.0015 * 0.1) - 0.0015 * sign
        assert torch.allclose(ours.get_parameter(name), expected, rtol=0, atol=1e-6), name


def test_adam_is_torch_s_own_adam_for_every_parameter() -> None:
    """Three steps, with gradients of many sizes: the constants show."""
    model, twin = random_model(1), random_model(1)
    rates = {"matrix_lr": 0.002, "other_lr": 0.002, "weight_decay": 0.0}
    recipe = Recipe(name="of the tests", model=model.config, lanes=1, steps=1, optimiser="adam", **rates)  # type: ignore[arg-type]
    ours, theirs = Optimisers(model, recipe), torch.optim.Adam(twin.parameters(), lr=0.001)
    for step in range(3):
        for i, (one, other) in enumerate(zip(model.parameters(), twin.parameters())):
            one.grad = 10.0 ** (i % 9 - 8) * drawn(*one.shape, seed=100 * step + i, dtype=one.dtype)
            other.grad = one.grad.clone()
        ours.step(0.5)
        theirs.step()
    for name, weight in model.named_parameters():
        assert torch.allclose(weight, twin.get_parameter(name), rtol=0, atol=1e-6), name


def test_adamw_is_that_of_its_publication() -> None:
    """ArXiv 1711.05101, algorithm 2, by hand in float64, with b1 = 0.9, b2 = 0.95, eps = 1e-10: for what is no matrix,
    and for matrices where the recipe says so. Gradients of many sizes, falling, so that every constant shows.
    """
    model, weights = random_model(1), dict(random_model(1).named_parameters())
    recipe = Recipe(
        name="of the tests", model=model.config, lanes=1, steps=1, optimiser="adamw", matrix_lr=0.01, other_lr=0.02
    )
    ours = Optimisers(model, recipe)
    expected = {name: weight.detach().double().numpy() for name, weight in weights.items()}
    means = {name: np.zeros(weight.shape) for name, weight in weights.items()}
    squares = {name: np.zeros(weight.shape) for name, weight in weights.items()}
    for t in range(1, 6):
        for i, (name, weight) in enumerate(model.named_parameters()):
            weight.grad = 10.0 ** -(i % 8 + t) * drawn(*weight.shape, seed=100 * t + i, dtype=weight.dtype)
            gradient = weight.grad.double().numpy()
            of_matrix = weight.ndim == 2 and name.startswith("blocks.")
            lr, decay = (0.01, 0.01) if of_matrix else (0.02, 0.0)
            means[name] = 0.9 * means[name] + 0.1 * gradient
            squares[name] = 0.95 * squares[name] + 0.05 * gradient**2
            mean, square = means[name] / (1 - 0.9**t), squares[name] / (1 - 0.95**t)
            expected[name] = expected[name] * (1 - lr * decay) - lr * mean / (np.sqrt(square) + 1e-10)
        ours.step(1.0)
    for name, weight in model.named_parameters():
        assert np.abs(weight.detach().double().numpy() - expected[name]).max() < 1e-5, name


def test_labels_have_a_rate_of_their_own() -> None:
    """Adam's first step moves every weight by its rate, whatever the gradient is."""
    model = random_model(1, labels=("composer=Bach",))
    recipe = Recipe(name="of the tests", model=model.config, lanes=1, steps=1, other_lr=0.02, label_lr=0.5)
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimisers = Optimisers(model, recipe)
    for weight in model.parameters():
        weight.grad = torch.ones_like(weight)
    optimisers.step(1.0)
    for name, rate in (("label_embedding.weight", 0.5), ("embedding.weight", 0.02), ("final_gain", 0.02)):
        torch.testing.assert_close(before[name] - model.get_parameter(name), torch.full_like(before[name], rate))
    again = Optimisers(model, recipe)
    again.restore(optimisers.tensors())
    assert again.tensors().keys() == optimisers.tensors().keys()
    assert torch.equal(
        again.tensors()["labels/label_embedding.weight/exp_avg"], torch.full_like(before["label_embedding.weight"], 0.1)
    )


def test_an_optimiser_that_does_not_exist_is_one_line() -> None:
    with pytest.raises(RitornelloError, match=r"weight_decay is 0\.01; with the optimiser adam it is 0"):
        Recipe(name="of the tests", model=random_model(1).config, lanes=1, steps=1, optimiser="adam")
    with pytest.raises(RitornelloError, match="unknown decay 'cosine'; there are linear, inverse_sqrt"):
        Recipe(name="of the tests", model=random_model(1).config, lanes=1, steps=1, decay="cosine")
    with pytest.raises(RitornelloError, match="unknown optimiser 'sgd'; there are muon, adamw, adam"):
        Recipe(name="of the tests", model=random_model(1).config, lanes=1, steps=1, optimiser="sgd")
