"""Linear layers in float32 on CPU, on processors whose full speed MKL does not reach: by linear.c for many rows."""

import ctypes
from collections.abc import Sequence
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.kernels import native

ROWS = 128  # of the input, from which it pays
FEW = range(2, 5)  # rows for which MKL is two to five times as fast with the weight on the left


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("linear.c")
    if loaded is not None:
        sizes = [ctypes.c_int64] * 4 + [ctypes.c_int]
        loaded.linear_forward.argtypes = [ctypes.c_void_p] * 4 + sizes
        loaded.linear_backward.argtypes = [ctypes.c_void_p] * 6 + sizes
        loaded.linear_forward.restype = loaded.linear_backward.restype = None
    return loaded


@cache
def pays() -> bool:
    """Whether MKL is slower here: it keeps its best code for the processors of its maker."""
    return "AuthenticAMD" in native.processor() and library() is not None


def _call(name: str, inputs: Sequence[Tensor], outputs: Sequence[Tensor | None]) -> None:
    """Runs a function of linear.c for x, weight and what else it reads, and what it writes."""
    x, weight, *_ = inputs = [each.contiguous() for each in inputs]
    *layers, width_out, width = weight.shape
    count = layers[0] if layers else 1
    places = [None if each is None else each.data_ptr() for each in (*inputs, *outputs)]
    sizes = count, x.numel() // (count * width), width, width_out
    getattr(library(), name)(*places, *sizes, torch.get_num_threads())


def _rows(x: Tensor, weight: Tensor) -> Tensor:
    """x [N, T, ·] where the weight is of N layers; where it is of one, x [..., ·] as [T, ·]."""
    return x if weight.dim() == 3 else x.flatten(0, -2)


class _Linear(torch.autograd.Function):
    """N layers at once, [N, T, I], [N, O, I], [N, O] → [N, T, O], or one, [..., I], [O, I], [O] → [..., O]."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        ctx.save_for_backward(x, weight)
        y = x.new_empty(*x.shape[:-1], weight.shape[-2])
        rows = _rows(x, weight)
        if rows.shape[-2] in FEW:
            product = torch.addmm if weight.dim() == 2 else torch.baddbmm
            _rows(y, weight).copy_(product(bias.unsqueeze(-1), weight, rows.mT).mT)
        else:
            _call("linear_forward", (x, weight, bias), (y,))
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        x, weight = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate these again
            of_y = _rows(grad, weight)
            return grad @ weight, of_y.mT @ _rows(x, weight), of_y.sum(-2)
        shapes = x.shape, weight.shape, weight.shape[:-1]
        grads = [x.new_empty(shape) if need else None for shape, need in zip(shapes, ctx.needs_input_grad, strict=True)]
        _call("linear_backward", (x, weight, grad), grads)
        return tuple(grads)


def linears(x: Tensor, layers: Sequence[nn.Linear]) -> Tensor:
    """N layers of one size at once, each with an input of its own: [N, T, I] → [N, T, O]."""
    weights, biases = ([getattr(layer, name) for layer in layers] for name in ("weight", "bias"))
    many, taken = x.shape[1] >= ROWS, _suits(x.shape[1]) and takes(x, *weights, *biases)
    if many and taken and not torch.is_grad_enabled():  # the weights can stay where they are
        y = x.new_empty(*x.shape[:2], len(weights[0]))
        for *of_layer, out in zip(x, weights, biases, y, strict=True):
            _call("linear_forward", of_layer, (out,))
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
    if _suits(x.numel() // max(1, x.shape[-1])) and takes(x, weight, bias):
        return _Linear.apply(x, weight, bias)
    return F.linear(x, weight, bias)


def _suits(rows: int) -> bool:
    return rows >= ROWS or rows in FEW


def takes(x: Tensor, *others: Tensor) -> bool:
    """Whether compiled products may work on these tensors, and pay."""
    for each in (x, *others):
        if each.dtype != torch.float32:
            return False
    return not torch.is_autocast_enabled("cpu") and native.takes(x, *others) and pays()


class Linear(nn.Linear):
    """nn.Linear with a bias: same parameters and numbers, in the fastest form."""

    def forward(self, input: Tensor) -> Tensor:
        return linear(input, self.weight, self.bias)
