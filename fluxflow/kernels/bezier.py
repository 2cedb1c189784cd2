"""The Bézier activation as one differentiable operation that keeps nothing but its input.

Let x be five planes [x_t | x_0 | x_1 | x_2 | x_3], t = f(x_t) and p_k = g(x_k). De Casteljau's construction
(Farin, "Curves and Surfaces for CAGD", chapter 4) gives the point on the cubic and, on the way, its slope:

    d = lerp(lerp(p0, p1, t), lerp(p1, p2, t), t)
    e = lerp(lerp(p1, p2, t), lerp(p2, p3, t), t)
    y = lerp(d, e, t)          dy/dt = 3·(e − d)          dy/dp_k = C(3, k)·(1 − t)^(3−k)·t^k

Autograd alone would keep about twenty tensors of the output's size; here the backward computes them again from x.
"""

import math
from collections.abc import Sequence
from functools import cache
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.kernels import bezier_native, enabled

ACTIVATIONS = {  # the kernels know them by their place here, their kind
    None: lambda x: x,
    "sigmoid": torch.sigmoid,
    "silu": F.silu,
    "tanh": torch.tanh,
    "relu": torch.relu,
}


def cubic_bezier(t: Tensor, p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """The cubic Bézier curve with control points p0…p3 at parameter t; all broadcast against each other."""
    middle = torch.lerp(p1, p2, t)
    left = torch.lerp(torch.lerp(p0, p1, t), middle, t)
    right = torch.lerp(middle, torch.lerp(p2, p3, t), t)
    return torch.lerp(left, right, t)


def bezier_reference(x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """The same as `bezier`, in plain operations that autograd differentiates any number of times."""
    t, *points = x.chunk(5, dim)
    return cubic_bezier(ACTIVATIONS[t_activation](t), *map(ACTIVATIONS[p_activation], points))


def activation_slope(x: Tensor, y: Tensor, activation: str | None) -> Tensor:
    """Derivative of the activation at input x, where y is its value there."""
    match activation:
        case "sigmoid":
            return y * (1 - y)
        case "tanh":
            return 1 - y * y
        case "silu":
            gate = torch.sigmoid(x)
            return gate + y * (1 - gate)
        case "relu":
            return (x > 0).to(x.dtype)
        case _:
            return torch.ones_like(x)


def point_weights(t: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """dy/dp_k for k = 0…3: the Bernstein polynomials."""
    s = 1 - t
    return s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t


def curve_slope(t: Tensor, p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """dy/dt, by the differences of neighbours."""
    s = 1 - t
    return 3 * (s * s * (p1 - p0) + 2 * s * t * (p2 - p1) + t * t * (p3 - p2))


def bezier_backward(x: Tensor, grad: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """Gradient of `bezier` with respect to x, computed from x alone."""
    x_t, *x_p = x.chunk(5, dim)
    t = ACTIVATIONS[t_activation](x_t)
    points = [ACTIVATIONS[p_activation](plane) for plane in x_p]
    grad_t = grad * curve_slope(t, *points) * activation_slope(x_t, t, t_activation)
    grad_p = [
        grad * weight * activation_slope(plane, point, p_activation)
        for weight, plane, point in zip(point_weights(t), x_p, points, strict=True)
    ]
    return torch.cat([grad_t, *grad_p], dim)


@cache
def _triton() -> ModuleType | None:
    """The kernels for CUDA; Triton comes with PyTorch's builds for it, but not for every system."""
    return import_module("fluxflow.kernels.bezier_triton") if find_spec("triton") else None


def _form(x: Tensor, dim: int, kinds: Sequence[int]) -> ModuleType | None:
    """The module with the fastest kernels for x, or None where the plain form has to do."""
    if not enabled() or x.numel() == 0 or x.shape[dim] % 5:
        return None
    match x.device.type:
        case "cpu":
            form = bezier_native
        case "cuda":
            form = _triton()
        case _:
            form = None
    return form if form is not None and form.takes(x, *kinds) else None


def _in_memory_order(x: Tensor) -> tuple[list[int], Tensor]:
    """The order of the dimensions in which x lies in memory, and x permuted to it: channels_last becomes B H W C.

    Where x has gaps, the order stays and x is copied.
    """
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    permuted = x.permute(order)
    return (order, permuted) if permuted.is_contiguous() else (list(range(x.dim())), x.contiguous())


def _run(form: ModuleType, x: Tensor, grad: Tensor | None, dim: int, kinds: Sequence[int]) -> Tensor:
    """The curve, or with `grad` its gradient with respect to x, by the kernels of a module."""
    order, x = _in_memory_order(x.detach())
    dim = order.index(dim % x.dim())
    plane = math.prod(x.shape[dim:]) // 5
    if grad is None:
        result = x.new_empty(*x.shape[:dim], x.shape[dim] // 5, *x.shape[dim + 1 :])
        form.forward(x, result, plane, *kinds)
    else:
        result = torch.empty_like(x)
        form.backward(x, grad.permute(order).contiguous(), result, plane, *kinds)
    return result.permute([order.index(i) for i in range(x.dim())])


def _kinds(*activations: str | None) -> list[int]:
    """The activations as the kernels know them."""
    return [list(ACTIVATIONS).index(activation) for activation in activations]


class _Bezier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.options = dim, t_activation, p_activation
        kinds = _kinds(t_activation, p_activation)
        form = _form(x, dim, kinds)
        if form is None:
            return bezier_reference(x, dim, t_activation, p_activation)
        return _run(form, x, None, dim, kinds)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        (x,) = ctx.saved_tensors
        return _gradient(x, grad, *ctx.options), None, None, None


def _gradient(x: Tensor, grad: Tensor, dim: int, *activations: str | None) -> Tensor:
    """`bezier_backward` in the fastest form."""
    kinds = _kinds(*activations)
    form = _form(x, dim, kinds)
    if form is None or torch.is_grad_enabled():  # somebody will differentiate this gradient again
        return bezier_backward(x, grad, dim, *activations)
    return _run(form, x, grad, dim, kinds)


def bezier(x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """Cubic Bézier of five planes: 5C → C along `dim`, keeping only x for the backward.

    On CPU compiled C computes it for float32 and bfloat16 (bezier_native.py), on CUDA Triton for these and float16
    (bezier_triton.py). Other dtypes, gradients that are differentiated again, and machines without the compiler take
    the plain form.

    Args:
        x: [t | p0 | p1 | p2 | p3], concatenated along `dim`.
        dim: the dimension of the planes; its size is a multiple of five.
        t_activation: applied to the plane t: "sigmoid", "silu", "tanh", "relu" or None.
        p_activation: applied to the four planes of control points, likewise.
    """
    if torch.compiler.is_compiling() or not enabled():  # a compiler fuses the plain form, with what is around it
        return bezier_reference(x, dim, t_activation, p_activation)
    return _Bezier.apply(x, dim, t_activation, p_activation)


class _TrainedBezier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, *points: Tensor) -> Tensor:
        ctx.save_for_backward(x, *points)
        return bezier(_planes(x, *points), 0, "sigmoid", None)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, *points = ctx.saved_tensors
        grad_x, *grad_p = _gradient(_planes(x, *points), grad, 0, "sigmoid", None).chunk(5)
        # Sums over all that shares a point: a reduction, in the same order each time.
        return grad_x.to(x.dtype), *(grad.sum_to_size(p.shape) for grad, p in zip(grad_p, points, strict=True))


def _planes(x: Tensor, *points: Tensor) -> Tensor:
    """The input of `bezier` that is x and its points, in their dtype, along dimension 0."""
    return torch.cat([x.to(points[0].dtype), *(p.expand(x.shape) for p in points)])


def trained_bezier(x: Tensor, p0: Tensor, p1: Tensor, p2: Tensor, p3: Tensor) -> Tensor:
    """The curve of sigmoid(x) with points that are parameters, keeping only x and the points for the backward.

    Args:
        x: any shape; computed in the dtype of the points, whatever its own.
        p0, p1, p2, p3: of one shape, broadcast against x.
    """
    if torch.compiler.is_compiling() or not enabled():
        return cubic_bezier(torch.sigmoid(x.to(p0.dtype)), p0, p1, p2, p3)
    return _TrainedBezier.apply(x, p0, p1, p2, p3)
