"""The layout of the published flow: neighbours as control points, positions numbered through, times rounded down."""

import torch
from torch import Tensor

from fluxflow.models.layouts import Film, Layout, modulate


def bare(gate: Tensor, previous: Tensor | None, film: Film | None) -> Tensor:
    """The modulated gate times the points before."""
    gate = modulate(gate[None], film)
    return gate if previous is None else gate * previous


def planes_of_groups(x: Tensor, dim: int) -> Tensor:
    """From groups of five neighbours t p0 p1 p2 p3 along `dim` ≥ 0, which is the published order, to five planes."""
    return x.unflatten(dim, (-1, 5)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def groups_of_planes(x: Tensor, dim: int) -> Tensor:
    """The inverse of `planes_of_groups`."""
    return x.unflatten(dim, (5, -1)).transpose(dim, dim + 1).flatten(dim, dim + 1)


def neighbours_as_points(x: Tensor, points: Tensor) -> Tensor:
    """Five neighbours of the concatenation make one curve, so that a fifth of the outputs ignores every pillar."""
    neighbours = torch.cat([x[None], points]).permute(1, 2, 0, 3).flatten(2)  # [B, T, 5D]
    return torch.stack(planes_of_groups(neighbours, 2).chunk(5, dim=2))


def rotary_1d(height: int, width: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine as the published flow takes them, [height·width, dim] each.

    Tokens are numbered through, whatever the grid. Each frequency stands for two neighbours although `rotate` pairs
    halves, so that this is no rotation; it is what published weights were trained with.
    """
    angles = torch.arange(height * width, device=device)[:, None] * inverse_frequencies(dim, device)
    angles = angles.repeat_interleave(2, dim=-1)
    first, second = angles.chunk(2, dim=-1)
    return angles.cos(), torch.cat([-first, second], dim=-1).sin()


def inverse_frequencies(dim: int, device: torch.device) -> Tensor:
    """1 / 10000^(2i / dim) for the dim / 2 channel pairs (Su et al., 2021, section 3.2.2)."""
    count = dim // 2
    return 1.0 / 10000 ** (torch.arange(count, device=device).float() / count)


def no_code(height: int, width: int, dim: int, device: torch.device) -> Tensor:
    """Zeros [height·width, dim]."""
    return torch.zeros(height * width, dim, device=device)


PUBLISHED = Layout(bare, neighbours_as_points, rotary_1d, no_code, torch.floor, passes_on=False, middle=0.0)
