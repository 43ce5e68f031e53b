"""Fused formulas: gradients are those of finite differences, and what is computed is what `blocks` says."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ritornello.models.blocks import gated, norm, normed_linear, rotary, rotate, turned
from ritornello.models.fused import Gated, NormedLinear, Turned


def drawn(*shape: int, seed: int = 0, dtype: torch.dtype = torch.float64) -> Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed), dtype=dtype, requires_grad=True)


def angles(*, like: Tensor) -> tuple[Tensor, Tensor]:
    """Of two lanes of three tokens, of pairs of vectors of six."""
    return rotary(torch.tensor([[0, 1, 2], [700, 701, 702]]), 6, like=like)


def interleaved(x: Tensor) -> Tensor:
    """(B, T, H x D) -> (B, H, T, D) as a view, as the model splits a projection."""
    return x.unflatten(-1, (-1, 6)).transpose(1, 2)


def test_gradients_are_those_of_finite_differences() -> None:
    assert torch.autograd.gradcheck(NormedLinear.apply, (drawn(2, 3, 5), drawn(5, seed=1), drawn(4, 5, seed=2)))
    x = drawn(2, 3, 12)
    assert torch.autograd.gradcheck(lambda x: Turned.apply(interleaved(x), *angles(like=x)), (x,))
    assert torch.autograd.gradcheck(Gated.apply, (drawn(2, 3, 8),))


def test_gradients_of_vectors_near_zero_are_those_of_finite_differences() -> None:
    """There the norm is that of its small constant, not of the vector."""
    small = (drawn(2, 1, 3, 6) * 1e-3).detach().requires_grad_()
    assert torch.autograd.gradcheck(lambda x: Turned.apply(x, *angles(like=x)), (small,), eps=1e-9, atol=1e-3)
    inputs = (small, drawn(6, seed=1), drawn(2, 6, seed=2))
    assert torch.autograd.gradcheck(NormedLinear.apply, inputs, eps=1e-9, atol=1e-3)


@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5)], ids=str)
def test_training_computes_what_autograd_derives_from_the_plain_formulas(dtype: torch.dtype, tolerance: float) -> None:
    x, gain, halves = (drawn(*shape, dtype=dtype) for shape in ((2, 3, 12), (12,), (2, 3, 10)))
    linear = nn.Linear(12, 7, bias=False, dtype=dtype)
    rotation = angles(like=x)

    def plainly_gated(x: Tensor) -> Tensor:
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate) * up

    pairs = [
        (normed_linear(x, gain, linear), linear(norm(x, gain)), (x, gain, linear.weight)),
        (turned(interleaved(x), rotation), rotate(norm(interleaved(x)), rotation), (x,)),
        (gated(halves), plainly_gated(halves), (halves,)),
    ]
    for found, expected, inputs in pairs:
        torch.testing.assert_close(found, expected, rtol=tolerance, atol=tolerance)
        towards = drawn(*found.shape, seed=3, dtype=dtype).detach()
        for one, other in zip(*(torch.autograd.grad(y, inputs, towards) for y in (found, expected))):
            torch.testing.assert_close(one, other, rtol=tolerance, atol=tolerance)


def test_without_gradients_or_in_half_precision_the_plain_formulas_are_taken() -> None:
    x = drawn(2, 3, 12, dtype=torch.float32)
    linear = nn.Linear(12, 7, bias=False)
    assert "NormedLinear" in type(normed_linear(x, torch.ones(12), linear).grad_fn).__name__
    with torch.autocast("cpu", dtype=torch.bfloat16):
        half = normed_linear(x, torch.ones(12), linear)
    assert (half.dtype, "NormedLinear" in type(half.grad_fn).__name__) == (torch.bfloat16, False)
    with torch.no_grad():
        assert torch.equal(normed_linear(x, torch.ones(12), linear), linear(norm(x)))
