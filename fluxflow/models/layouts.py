"""How a flow arranges its pillars and numbers its positions and times: as is right, or as the published package does.

Weights that were trained under one layout compute nothing sensible under the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxflow.models.activations import IDENTITY_MIDDLE, planes_of_groups
from fluxflow.models.attention import rotary_1d, rotary_2d
from fluxflow.models.packet import position_code


@dataclass(frozen=True)
class Layout:
    """The choices in which the published flow differs.

    Args:
        planes: the tokens and their four pillars, concatenated to [B, T, 5D], as the five planes of a Bézier curve.
        rotary: cosine and sine of the rotary angles from (height, width, channels of a head, device).
        code: what is added to the tokens, [T, D], from (height, width, D, device).
        row: times in 0…999 to the whole row of the time embedding.
        passes_on: blocks can start near the identity, since each output has a curve of its own.
        middle: around what the tokens that leave a block lie at the start; the context is centred by it.
    """

    planes: Callable[[Tensor], Tensor]
    rotary: Callable[[int, int, int, torch.device], tuple[Tensor, Tensor]]
    code: Callable[[int, int, int, torch.device], Tensor]
    row: Callable[[Tensor], Tensor]
    passes_on: bool
    middle: float


def as_they_are(points: Tensor) -> Tensor:
    """Tokens and pillars are five planes already."""
    return points


def planes_of_neighbours(points: Tensor) -> Tensor:
    """Five neighbours of the concatenation make one curve, so that a fifth of the outputs ignores every pillar."""
    return planes_of_groups(points, 2)


def grid_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Twice `position_code`, in wavelengths of a latent grid's size, [height·width, dim]."""
    return 2 * position_code(height, width, dim, device, slowest=50.0)


def no_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Zeros [height·width, dim]."""
    return torch.zeros(height * width, dim, device=device)


LAYOUTS: dict[str, Layout] = {
    "planar": Layout(as_they_are, rotary_2d, grid_code, torch.round, passes_on=True, middle=IDENTITY_MIDDLE),
    "published": Layout(planes_of_neighbours, rotary_1d, no_code, torch.floor, passes_on=False, middle=0.0),
}
