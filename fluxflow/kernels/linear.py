"""Linear layers in float32 on CPU by products.c, on processors whose full speed MKL does not reach."""

from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.kernels import native, products
from fluxflow.kernels.products import multiply

ROWS = 128  # of the input, from which it pays


@cache
def pays() -> bool:
    """Whether MKL is slower here: it keeps its best code for the processors of its maker."""
    return "AuthenticAMD" in native.processor() and products.library() is not None


class _Linears(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *parameters: Tensor) -> Tensor:
        weights, biases = parameters[: len(x)], parameters[len(x) :]
        ctx.save_for_backward(x, *weights)
        y = x.new_empty(*x.shape[:2], len(weights[0]))
        for rows, weight, bias, out in zip(x[:, None], weights, biases, y[:, None], strict=True):
            multiply(rows, weight.mT[None], bias.expand_as(out), out)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, *weights = ctx.saved_tensors
        needs_x, needs_weights = ctx.needs_input_grad[0], any(ctx.needs_input_grad[1 : 1 + len(weights)])
        product = torch.bmm if torch.is_grad_enabled() else multiply  # somebody will differentiate these again
        return (
            product(grad, torch.stack(weights)) if needs_x else None,
            *(product(grad.mT, x) if needs_weights else [None] * len(x)),
            *grad.sum(1),
        )


def linears(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """N layers of one size at once, each with an input of its own: [N, T, I] → [N, T, O]."""
    weights, biases = ([getattr(layer, name) for layer in layers] for name in ("weight", "bias"))
    if _takes(x, *weights, *biases):
        return _Linears.apply(x, *weights, *biases)
    return torch.baddbmm(torch.stack(biases)[:, None], x, torch.stack(weights).mT)


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x·Wᵀ + b, as F.linear.

    Args:
        x: [..., I].
        weight: [O, I].
        bias: [O].
    """
    if _takes(x, weight, bias):
        return _Linears.apply(x.reshape(1, -1, x.shape[-1]), weight, bias).view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias)


def _takes(x: Tensor, *parameters: Tensor) -> bool:
    float32 = all(each.dtype == torch.float32 for each in (x, *parameters)) and not torch.is_autocast_enabled("cpu")
    return float32 and native.takes(x, *parameters) and x.numel() >= ROWS * x.shape[-1] and pays()


class Linear(nn.Linear):
    """nn.Linear with a bias: same parameters and numbers, in the fastest form."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
