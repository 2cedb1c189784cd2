"""The Bézier activation as one differentiable operation that keeps nothing but its input.

Let x be five planes [x_t | x_0 | x_1 | x_2 | x_3], t = f(x_t) and p_k = g(x_k). De Casteljau's construction
(Farin, "Curves and Surfaces for CAGD", chapter 4) gives the point on the cubic and, on the way, its slope:

    d = lerp(lerp(p0, p1, t), lerp(p1, p2, t), t)
    e = lerp(lerp(p1, p2, t), lerp(p2, p3, t), t)
    y = lerp(d, e, t)          dy/dt = 3·(e − d)          dy/dp_k = C(3, k)·(1 − t)^(3−k)·t^k

Autograd alone would keep about twenty tensors of the output's size; here the backward computes them again from x.
"""

from types import ModuleType
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow import kernels
from fluxflow.kernels import bezier_native

ACTIVATIONS = {  # the kernels know them by their place here
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


def bezier_backward(x: Tensor, grad: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """Gradient of `bezier` with respect to x, computed from x alone."""
    x_t, *x_p = x.chunk(5, dim)
    t = ACTIVATIONS[t_activation](x_t)
    p0, p1, p2, p3 = points = [ACTIVATIONS[p_activation](plane) for plane in x_p]
    s = 1 - t
    weights = (s * s * s, 3 * s * s * t, 3 * s * t * t, t * t * t)
    slope = 3 * (s * s * (p1 - p0) + 2 * s * t * (p2 - p1) + t * t * (p3 - p2))
    grad_t = grad * slope * activation_slope(x_t, t, t_activation)
    grad_p = [
        grad * weight * activation_slope(plane, point, p_activation)
        for weight, plane, point in zip(weights, x_p, points, strict=True)
    ]
    return torch.cat([grad_t, *grad_p], dim)


def _form(x: Tensor, dim: int) -> ModuleType | None:
    """The module with the fastest kernels for x, or None where the plain form has to do."""
    if not kernels.enabled() or x.numel() == 0 or x.shape[dim] % 5:
        return None
    if x.device.type == "cpu" and bezier_native.takes(x):
        return bezier_native
    return None


def _in_memory_order(x: Tensor) -> tuple[list[int], Tensor]:
    """The order of the dimensions in which x lies in memory, and x permuted to it: channels_last becomes B H W C.

    Where x has gaps, the order stays and x is copied.
    """
    order = sorted(range(x.dim()), key=x.stride, reverse=True)
    permuted = x.permute(order)
    return (order, permuted) if permuted.is_contiguous() else (list(range(x.dim())), x.contiguous())


def _run(form: ModuleType, x: Tensor, grad: Tensor | None, dim: int, kinds: tuple[str | None, str | None]) -> Tensor:
    """The curve, or with `grad` its gradient with respect to x, by the kernels of a module."""
    order, x = _in_memory_order(x.detach())
    dim = order.index(dim % x.dim())
    plane = x[(0,) * dim].numel() // 5
    codes = [list(ACTIVATIONS).index(kind) for kind in kinds]
    if grad is None:
        result = x.new_empty(*x.shape[:dim], x.shape[dim] // 5, *x.shape[dim + 1 :])
        form.forward(x, result, plane, *codes)
    else:
        result = torch.empty_like(x)
        form.backward(x, grad.permute(order).contiguous(), result, plane, *codes)
    return result.permute([order.index(i) for i in range(x.dim())])


class _Bezier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.options = dim, t_activation, p_activation
        form = _form(x, dim)
        if form is None:
            return bezier_reference(x, dim, t_activation, p_activation)
        return _run(form, x, None, dim, (t_activation, p_activation))

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        dim, *kinds = ctx.options
        form = _form(x, dim)
        if form is None or torch.is_grad_enabled():  # somebody will differentiate this gradient again
            return bezier_backward(x, grad, dim, *kinds), None, None, None
        return _run(form, x, grad, dim, (kinds[0], kinds[1])), None, None, None


def bezier(x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """Cubic Bézier of five planes: 5C → C along `dim`, keeping only x for the backward.

    float32 and bfloat16 on CPU run as compiled C (bezier_native.py), the rest and second derivatives as plain PyTorch.

    Args:
        x: [t | p0 | p1 | p2 | p3], concatenated along `dim`.
        dim: the dimension of the planes; its size is a multiple of five.
        t_activation: applied to the plane t: "sigmoid", "silu", "tanh", "relu" or None.
        p_activation: applied to the four planes of control points, likewise.
    """
    if (
        torch.compiler.is_compiling() or not kernels.enabled()
    ):  # a compiler fuses the plain form, with what is around it
        return bezier_reference(x, dim, t_activation, p_activation)
    return _Bezier.apply(x, dim, t_activation, p_activation)
