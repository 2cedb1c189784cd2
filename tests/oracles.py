"""Independent ways to compute what the code computes: slow, in float64, from the textbook."""

from itertools import pairwise

import torch
from torch import Tensor


def activate(x: Tensor, name: str | None) -> Tensor:
    """The activation from its definition by the exponential."""
    match name:
        case None:
            return x
        case "sigmoid":
            return 1 / (1 + torch.exp(-x))
        case "silu":
            return x / (1 + torch.exp(-x))
        case "tanh":
            return (torch.exp(2 * x) - 1) / (torch.exp(2 * x) + 1)
        case "relu":
            return torch.where(x > 0, x, 0)
    raise ValueError(name)


def de_casteljau(t: Tensor, points: list[Tensor]) -> Tensor:
    """The point at t of the Bézier curve of any degree: neighbours are interpolated until one is left."""
    while len(points) > 1:
        points = [(1 - t) * a + t * b for a, b in pairwise(points)]
    return points[0]


def bezier_planes(x: Tensor, dim: int, t_activation: str | None, p_activation: str | None) -> Tensor:
    """The Bézier activation in float64: plane k holds channels k·C … (k+1)·C−1 of dimension `dim`."""
    channels = x.shape[dim] // 5
    t, *points = (x.double().narrow(dim, k * channels, channels) for k in range(5))
    return de_casteljau(activate(t, t_activation), [activate(point, p_activation) for point in points])
