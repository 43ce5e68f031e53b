"""What a layer does number by number, in few passes over memory and with gradients written out: for training on a CPU.

The same formulas as in ``blocks``, which autograd would take apart into many small steps, each of them reading and
writing whole activations. Axes: B lanes, T tokens, H heads, D head size, C width, O outputs.
"""

from __future__ import annotations

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.autograd.function import once_differentiable

EPSILON = 1e-6


class NormedLinear(torch.autograd.Function):
    """y = W (g * n) with n = x / r, r = sqrt(mean(x^2) + eps).

    The gain is multiplied into the weights, which are fewer than the activations. Backward, with d = (W g)' dy:
    dx = (d - n mean(d n)) / r; dW = g * (dy n'); dg = the sum over outputs of W * (dy n').
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, gain: Tensor, weight: Tensor) -> Tensor:
        """Inputs (..., C), gain (C,), weight (O, C) -> (..., O)."""
        scale = _inverse_rms(x)
        normed = x * scale
        ctx.save_for_backward(normed, scale, gain, weight)
        return F.linear(normed, weight * gain)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        normed, scale, gain, weight = ctx.saved_tensors
        d_y = grads[0].flatten(0, -2)
        by_normed = d_y.mT @ normed.flatten(0, -2)
        d_normed = (d_y @ (weight * gain)).view_as(normed)
        along = (d_normed * normed).mean(-1, keepdim=True)
        d_x = d_normed.addcmul_(normed, along, value=-1).mul_(scale)
        return d_x, (by_normed * weight).sum(0), by_normed.mul_(gain)


class Turned(torch.autograd.Function):
    """y = R n with n = x / r, r = sqrt(mean(x^2) + eps) over D, and R the rotation of the pairs (d, d + D/2).

    Backward: a rotation keeps products, so mean(dn n) = mean(dy y), and dx = R'(dy - y mean(dy y)) / r.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
        """Vectors (B, H, T, D), cosines and sines (B, 1, T, D / 2) -> (B, H, T, D), laid out alike."""
        scale = _inverse_rms(x)
        turned = _rotated(x, cos, sin).mul_(scale)
        ctx.save_for_backward(turned, scale, cos, sin)
        return turned

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        turned, scale, cos, sin = ctx.saved_tensors
        along = (grads[0] * turned).mean(-1, keepdim=True)
        return _rotated(torch.addcmul(grads[0], turned, along, value=-1), cos, -sin).mul_(scale), None, None


class Gated(torch.autograd.Function):
    """y = silu(a) * b for halves a, b of the last axis. Backward: db = dy silu(a), da = dy b silu'(a)."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        """(..., 2 O) -> (..., O)."""
        ctx.save_for_backward(x)
        gate, up = x.chunk(2, dim=-1)
        return F.silu(gate).mul_(up)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Tensor) -> Any:
        (x,) = ctx.saved_tensors
        d_x = torch.empty_like(x)
        (gate, up), (d_gate, d_up) = x.chunk(2, dim=-1), d_x.chunk(2, dim=-1)
        torch.mul(grads[0], F.silu(gate), out=d_up)
        torch.ops.aten.silu_backward.grad_input(grads[0] * up, gate, grad_input=d_gate)
        return d_x


def _inverse_rms(x: Tensor) -> Tensor:
    square = torch.linalg.vector_norm(x, dim=-1, keepdim=True).square_()
    return square.div_(x.shape[-1]).add_(EPSILON).rsqrt_()


def _rotated(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    turned = torch.empty_like(x)
    (a, b), (left, right) = x.chunk(2, dim=-1), turned.chunk(2, dim=-1)
    torch.mul(a, cos, out=left).addcmul_(b, sin, value=-1)
    torch.mul(a, sin, out=right).addcmul_(b, cos)
    return turned
