"""Linear layers in float32 on CPU, on processors whose full speed MKL does not reach: by products.c for many rows."""

import math
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.kernels import native, products
from fluxflow.kernels.products import multiply

ROWS = 128  # of the input, from which it pays
FEW = range(2, 5)  # rows for which MKL is two to five times as fast with the weight on the left


@cache
def pays() -> bool:
    """Whether MKL is slower here: it keeps its best code for the processors of its maker."""
    return "AuthenticAMD" in native.processor() and products.library() is not None


def _batch(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, T, ·] where the weight is of N layers; where it is of one, x [..., ·] as [1, T, ·]."""
    return x if weight.dim() == 3 else x.reshape(1, -1, x.shape[-1])


class _Linear(torch.autograd.Function):
    """N layers at once, [N, T, I], [N, O, I], [N, O] → [N, T, O], or one, [..., I], [O, I], [O] → [..., O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        rows, layers = _batch(x, weight), _batch(weight, weight)
        y = x.new_empty(*x.shape[:-1], layers.shape[1])
        out, bias = _batch(y, weight), bias.view(len(layers), 1, -1)
        if rows.shape[1] in FEW:
            out.copy_(torch.baddbmm(bias.mT, layers, rows.mT).mT)
        else:
            multiply(rows, layers.mT, bias.expand_as(out), out)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        product = torch.bmm if torch.is_grad_enabled() else multiply  # somebody will differentiate these again
        of_y = _batch(grad, weight)
        return (
            product(of_y, _batch(weight, weight)).view(x.shape) if needs_x else None,
            product(of_y.mT, _batch(x, weight)).view(weight.shape) if needs_weight else None,
            of_y.sum(1).view(weight.shape[:-1]) if needs_bias else None,
        )


def linears(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """N layers of one size at once, each with an input of its own: [N, T, I] → [N, T, O]."""
    weights, biases = ([getattr(layer, name) for layer in layers] for name in ("weight", "bias"))
    many, taken = x.shape[1] >= ROWS, _suits(x.shape[1]) and takes(x, *weights, *biases)
    if many and taken and not torch.is_grad_enabled():  # the weights can stay where they are
        y = x.new_empty(*x.shape[:2], len(weights[0]))
        for rows, weight, bias, out in zip(x[:, None], weights, biases, y[:, None], strict=True):
            multiply(rows, weight.mT[None], bias.expand_as(out), out)
        return y
    weight, bias = torch.stack(weights), torch.stack(biases)
    return _Linear.apply(x, weight, bias) if taken else torch.baddbmm(bias[:, None], x, weight.mT)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x·Wᵀ + b, as F.linear.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].
    """
    if _suits(math.prod(x.shape[:-1])) and takes(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _suits(rows: int) -> bool:
    return rows >= ROWS or rows in FEW


def takes(x: Tensor, *others: Tensor) -> bool:
    """Whether compiled products may work on these tensors, and pay."""
    float32 = all(each.dtype == torch.float32 for each in (x, *others)) and not torch.is_autocast_enabled("cpu")
    return float32 and native.takes(x, *others) and pays()


class Linear(nn.Linear):
    """nn.Linear with a bias: same parameters and numbers, in the fastest form."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
