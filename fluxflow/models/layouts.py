"""How a flow arranges its pillars and numbers its positions and times: what a layout consists of, and our own one.

The published package has another, published/layout.py; weights that were trained under one compute nothing sensible
under the other.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.models.activations import IDENTITY_MIDDLE
from fluxflow.models.attention import rotary_2d
from fluxflow.models.norms import in_float32
from fluxflow.models.packet import position_code

Film = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Layout:
    """The choices in which the published flow differs.

    Args:
        gates: the pillars' input, 1 or 4 × [B, T, D], from sigmoid(x) of the tokens [B, T, D], the control points of
            the block before [4, B, T, D] or None, and γ and β of the text [4, B, 1, D] each, or None.
        planes: the tokens [B, T, D] and their four pillars [4, B, T, D] as five planes of Bézier curves [5, B, T, D].
        rotary: cosine and signed sine of the rotary angles from (height, width, channels of a head, device).
        code: what is added to the tokens, [T, D], from (height, width, D, device).
        row: times in 0…999 to the whole row of the time embedding.
        passes_on: blocks can start near the identity, since each output has a curve of its own.
        middle: around what the tokens that leave a block lie at the start; the context is centred by it.
    """

    gates: Callable[[Tensor, Tensor | None, Film | None], Tensor]
    planes: Callable[[Tensor, Tensor], Tensor]
    rotary: Callable[[int, int, int, torch.device], tuple[Tensor, Tensor]]
    code: Callable[[int, int, int, torch.device], Tensor]
    row: Callable[[Tensor], Tensor]
    passes_on: bool
    middle: float


def modulate(x: Tensor, film: Film | None) -> Tensor:
    """x·(1 + γ) + β, or x (Perez et al., 2018)."""
    return x if film is None else torch.addcmul(film[1], x, 1 + film[0])


def normalised(gate: Tensor, previous: Tensor | None, film: Film | None) -> Tensor:
    """Each token's gates of mean 0 and variance 1, which the text then modulates: adaptive layer normalisation.

    As they are, gates lie around half the points before, nearly constant, and pillars that only see those learn late.
    """
    gate = gate[None] if previous is None else gate * previous
    return modulate(F.layer_norm(in_float32(gate), gate.shape[-1:]), film)


def own_points(x: Tensor, points: Tensor) -> Tensor:
    """Each element of the tokens has the same element of each pillar for its control points."""
    return torch.cat([x[None], points])


def grid_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Twice `position_code`, in wavelengths of a latent grid's size, [height·width, dim]."""
    return 2 * position_code(height, width, dim, device, slowest=50.0)


PLANAR = Layout(normalised, own_points, rotary_2d, grid_code, torch.round, passes_on=True, middle=IDENTITY_MIDDLE)
