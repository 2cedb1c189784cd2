"""How a flow arranges its pillars and numbers its positions and times: as is right, or as the published package does.

Weights that were trained under one layout compute nothing sensible under the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxflow.models.activations import planes_of_groups
from fluxflow.models.attention import rotary_1d, rotary_2d
from fluxflow.models.packet import position_code

Grid = Callable[[int, int, int, torch.device], Tensor]


@dataclass(frozen=True)
class Layout:
    """The choices in which the published flow differs.

    Args:
        planes: the tokens and their four pillars, concatenated to [B, T, 5D], as the five planes of a Bézier curve.
        rotary: cosine and sine of the rotary angles from (height, width, channels of a head, device).
        code: what is added to the tokens, [T, D], from (height, width, D, device).
        row: times in 0…999 to the whole row of the time embedding.
    """

    planes: Callable[[Tensor], Tensor]
    rotary: Callable[[int, int, int, torch.device], tuple[Tensor, Tensor]]
    code: Grid
    row: Callable[[Tensor], Tensor]


def no_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Zeros [height·width, dim]."""
    return torch.zeros(height * width, dim, device=device)


LAYOUTS: dict[str, Layout] = {
    "planar": Layout(planes=lambda points: points, rotary=rotary_2d, code=position_code, row=torch.round),
    # Five neighbours of the concatenation make one curve, so that a fifth of the outputs ignores every pillar.
    "published": Layout(
        planes=lambda points: planes_of_groups(points, 2), rotary=rotary_1d, code=no_code, row=torch.floor
    ),
}
