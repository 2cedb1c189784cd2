"""Linear layers in float32 on CPU by products.c, on processors whose full speed MKL does not reach."""

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


class _Linear(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        return multiply(x, weight.mT, bias[:, None].expand(-1, x.shape[1], -1))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, needs_bias = ctx.needs_input_grad
        product = torch.bmm if torch.is_grad_enabled() else multiply  # somebody will differentiate these again
        return (
            product(grad, weight) if needs_x else None,
            product(grad.mT, x) if needs_weight else None,
            grad.sum(1) if needs_bias else None,
        )


def linear(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """x·Wᵀ + b by one layer, as F.linear, or by N layers at once, each with an input of its own.

    Args:
        x: [..., I] or [N, T, I].
        weight: [O, I] or [N, O, I].
        bias: [O] or [N, O].
    """
    of_one = weight.dim() == 2
    float32 = x.dtype == weight.dtype == torch.float32 and not torch.is_autocast_enabled("cpu")
    if float32 and native.takes(x, weight, bias) and x.numel() >= ROWS * x.shape[-1] and pays():
        inputs, *parameters = (x.reshape(1, -1, x.shape[-1]), weight[None], bias[None]) if of_one else (x, weight, bias)
        return _Linear.apply(inputs, *parameters).view(*x.shape[:-1], -1)
    return F.linear(x, weight, bias) if of_one else torch.baddbmm(bias[:, None], x, weight.mT)


class Linear(nn.Linear):
    """nn.Linear with a bias: same parameters and numbers, in the fastest form."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
