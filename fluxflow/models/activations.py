"""Activations that are cubic Bézier curves.

Convention: a layer that feeds a `BezierActivation` yields five planes [t | p0 | p1 | p2 | p3], concatenated along the
channel dimension, so that `chunk(5, dim)` separates them and the activation maps 5C channels to C. The channel
dimension is the last one of [B, D] and [B, T, D] and the second of [B, C, H, W] and beyond. Of an activation,
`parts` gives what its curves are made of: their parameter t, and their four control points [4, …].
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.errors import ConfigError
from fluxflow.kernels.bezier import ACTIVATIONS, bezier, trained_bezier

# With these control points a curve of t = sigmoid(x) is y = 3.2 + 2·u + 1.2·u³ with u = tanh(x / 2): 3.2 + x within 0.1
# up to |x| = 2.5 and 0.3 up to |x| = 3. Networks start from it, since a signal then reaches through any number of
# curves. Around control points of 0 a curve through SiLU shrinks small signals to a third and lets large ones grow
# without bound; four points in a line give 2 + 2·tanh(x / 2), which after a few blocks has lost what is larger than 1.
IDENTITY_MIDDLE = 3.2
IDENTITY_POINTS = (0.0, IDENTITY_MIDDLE + 8 / 15, IDENTITY_MIDDLE - 8 / 15, 2 * IDENTITY_MIDDLE)


def inverse_silu(value: float) -> float:
    """The x ≥ 0 with x·sigmoid(x) = value ≥ 0, by Newton's method."""
    x = value + 0.5
    for _ in range(50):
        gate = 1 / (1 + math.exp(-x))
        x -= (x * gate - value) / (gate * (1 + x * (1 - gate)))
    return x


class BezierActivation(nn.Module):
    """Cubic Bézier curve whose parameter and control points both come from the input, 5C → C.

    Args:
        t_pre_activation: applied to the plane t: "sigmoid", "silu", "tanh", "relu" or None.
        p_preactivation: applied to the planes p0…p3, likewise.

    Raises:
        ValueError: if an activation is not one of those, or the channels are not a multiple of five.
    """

    def __init__(self, t_pre_activation: str | None = "sigmoid", p_preactivation: str | None = None) -> None:
        super().__init__()
        for name in (t_pre_activation, p_preactivation):
            if name not in ACTIVATIONS:
                raise ValueError(f"unknown activation {name!r}: choose one of {list(ACTIVATIONS)}")
        self.t_pre_activation = t_pre_activation
        self.p_preactivation = p_preactivation

    def forward(self, x: Tensor) -> Tensor:
        return bezier(x, self._dim(x), self.t_pre_activation, self.p_preactivation)

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        t, *points = x.chunk(5, self._dim(x))
        return ACTIVATIONS[self.t_pre_activation](t), ACTIVATIONS[self.p_preactivation](torch.stack(points))

    def _dim(self, x: Tensor) -> int:
        dim = 1 if x.dim() != 3 else 2
        if x.dim() < 2 or x.shape[dim] % 5:
            raise ValueError(f"a Bézier activation takes five planes along dimension {dim}, got {tuple(x.shape)}")
        return dim

    def extra_repr(self) -> str:
        return f"t={self.t_pre_activation}, p={self.p_preactivation}"


class TrainableBezier(nn.Module):
    """Cubic Bézier curve of sigmoid(x) with learned control points, one curve for each element of `shape`.

    Args:
        shape: shape of the control points, broadcast against the input without its batch dimension.
        p0, p1, p2, p3: initial control points.
        channel_only: `shape` is (C,) and an input [B, C, H, W] has one curve a channel.
    """

    def __init__(
        self,
        shape: tuple[int, ...],
        p0: float = 1e-8,
        p1: float = 0.25,
        p2: float = 0.75,
        p3: float = 1.0,
        channel_only: bool = False,
    ) -> None:
        super().__init__()
        self.channel_only = channel_only
        self.p0, self.p1, self.p2, self.p3 = (nn.Parameter(torch.full(shape, p)) for p in (p0, p1, p2, p3))

    def forward(self, x: Tensor) -> Tensor:
        points = (self.p0, self.p1, self.p2, self.p3)
        if self.channel_only and x.dim() == 4:
            points = (p[:, None, None] for p in points)
        return trained_bezier(x, *points)  # under autocast the curve stays in the precision of its points

    def parts(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return torch.sigmoid(x), torch.stack([self.p0, self.p1, self.p2, self.p3])


class PillarBezier(nn.Module):
    """Cubic Bézier curve of sigmoid(x) with points from pillars; `arrange` makes planes [5, …] of x and points."""

    def __init__(self, arrange: Callable[[Tensor, Tensor], Tensor]) -> None:
        super().__init__()
        self.arrange = arrange

    def forward(self, x: Tensor, points: Tensor) -> Tensor:
        return bezier(self.arrange(x, points), 0, "sigmoid", None)[0]

    def parts(self, x: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        planes = self.arrange(x, points)
        return torch.sigmoid(planes[0]), planes[1:]


class SwiGLU(nn.Module):
    """silu(a)·b of two planes, 2C → C (Shazeer, 2020): of the channels of tokens [B, T, C] or of maps [B, C, H, W]."""

    def forward(self, x: Tensor) -> Tensor:
        a, b = x.chunk(2, dim=1 if x.dim() == 4 else -1)
        return F.silu(a) * b


# Name → planes that the activation takes for one that it gives, and what makes it.
CHOICES: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "bezier": (5, lambda: BezierActivation("sigmoid", "silu")),
    "silu": (1, nn.SiLU),
    "gelu": (1, nn.GELU),
    "relu": (1, nn.ReLU),
    "swiglu": (2, SwiGLU),
}


def activation_of(name: str) -> tuple[int, nn.Module]:
    """The planes that an activation takes, and the activation. Raises ConfigError."""
    if name not in CHOICES:
        raise ConfigError(f"unknown activation {name!r}: choose one of {', '.join(CHOICES)}")
    planes, make = CHOICES[name]
    return planes, make()
