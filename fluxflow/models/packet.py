"""The latent packet: T image tokens, row-major, and one size token.

Convention: `[B, T + 1, D]` with T = h·w for a latent grid of h × w. The last token holds h / max_hw and w / max_hw in
its first two channels and zeros elsewhere. It is never noised and passes through every network unchanged.
"""

import math

import torch
from torch import Tensor


def pack(tokens: Tensor, latent_size: tuple[int, int], max_hw: int) -> Tensor:
    """Appends the size token to tokens [B, T, D]."""
    size = tokens.new_zeros(len(tokens), 1, tokens.shape[-1])
    size[..., 0] = latent_size[0] / max_hw
    size[..., 1] = latent_size[1] / max_hw
    return torch.cat([tokens, size], dim=1)


def latent_size_of(packed: Tensor, max_hw: int) -> tuple[int, int]:
    """Reads the grid (h, w) from the size tokens. This waits for the device: pass `latent_size` where it is known.

    Raises:
        ValueError: if the packets of the batch differ in size, or hold another number of tokens than h·w.
    """
    sizes = (packed[:, -1, :2].float() * max_hw).round().long().unique(dim=0).tolist()
    if len(sizes) != 1 or sizes[0][0] * sizes[0][1] != packed.shape[1] - 1:
        raise ValueError(
            f"a batch of packets holds one size; the size tokens say {sizes}, with {packed.shape[1] - 1} tokens"
        )
    return sizes[0][0], sizes[0][1]


def to_map(tokens: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """Image tokens [B, T, D] as a feature map [B, D, h, w], which lies in memory as they do: channels_last."""
    return tokens.transpose(1, 2).unflatten(2, latent_size)


def to_tokens(features: Tensor) -> Tensor:
    """A feature map [B, D, h, w] as image tokens [B, T, D]."""
    return features.flatten(2).transpose(1, 2)


def add_coordinates(x: Tensor) -> Tensor:
    """Appends two channels, the column and the row of each pixel, from -1 to 1 (CoordConv, Liu et al., 2018).

    What is channels_last in memory stays so.
    """
    rows = torch.linspace(-1, 1, x.shape[2], device=x.device, dtype=x.dtype)
    columns = torch.linspace(-1, 1, x.shape[3], device=x.device, dtype=x.dtype)
    grid = torch.stack(torch.meshgrid(columns, rows, indexing="xy")).expand(len(x), -1, -1, -1)
    if x.is_contiguous(memory_format=torch.channels_last):
        grid = grid.contiguous(memory_format=torch.channels_last)
    return torch.cat([x, grid], dim=1)


def position_code(height: int, width: int, dim: int, device: torch.device, slowest: float = 10000.0) -> Tensor:
    """Fixed sines and cosines of the row (first half of the channels) and the column, [height·width, dim].

    Vaswani et al., 2017, section 3.5, in two dimensions; wavelengths from 2π to 2π·`slowest` tokens.
    """

    def code(length: int, channels: int) -> Tensor:
        frequency = torch.exp(torch.arange(0, channels, 2, device=device) * (-math.log(slowest) / channels))
        angle = torch.arange(length, device=device)[:, None] * frequency
        return torch.stack([angle.sin(), angle.cos()], dim=-1).flatten(1)[:, :channels]  # [length, channels]

    rows, columns = code(height, dim - dim // 2), code(width, dim // 2)
    return torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], dim=-1)
