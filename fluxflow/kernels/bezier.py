"""The Bézier activation as one differentiable operation that keeps nothing but its input.

Let x be five planes [x_t | x_0 | x_1 | x_2 | x_3], t = f(x_t) and p_k = g(x_k). De Casteljau's construction
(Farin, "Curves and Surfaces for CAGD", chapter 4) gives the point on the cubic and, on the way, its slope:

    d = lerp(lerp(p0, p1, t), lerp(p1, p2, t), t)
    e = lerp(lerp(p1, p2, t), lerp(p2, p3, t), t)
    y = lerp(d, e, t)          dy/dt = 3·(e − d)          dy/dp_k = C(3, k)·(1 − t)^(3−k)·t^k

Autograd alone would keep about twenty tensors of the output's size; here the backward computes them again from x.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

ACTIVATIONS = {
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


class _Bezier(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
        ctx.save_for_backward(x)
        ctx.options = dim, t_activation, p_activation
        return bezier_reference(x, dim, t_activation, p_activation)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
        (x,) = ctx.saved_tensors
        return bezier_backward(x, grad, *ctx.options), None, None, None


def bezier(x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """Cubic Bézier of five planes: 5C → C along `dim`, keeping only x for the backward.

    Args:
        x: [t | p0 | p1 | p2 | p3], concatenated along `dim`.
        dim: the dimension of the planes; its size is a multiple of five.
        t_activation: applied to the plane t: "sigmoid", "silu", "tanh", "relu" or None.
        p_activation: applied to the four planes of control points, likewise.
    """
    return _Bezier.apply(x, dim, t_activation, p_activation)
