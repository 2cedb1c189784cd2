"""Decoding large pictures in tiles, to the same picture.

Most of the memory of a decoder goes into the five planes at twice the resolution inside a block, and little into the
maps between two blocks. So those maps stay whole, and with them the statistics of every normalisation: each block alone
works tile by tile. Around a tile it takes in as many pixels as its convolutions reach, and at the border of the
map their padding is where it would be. What differs from decoding at once is the rounding.
"""

from collections.abc import Iterator
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.errors import ConfigError
from fluxflow.models.packet import to_map
from fluxflow.models.vae import FluxExpander, UpsampleBlock

HALO = 2 + 4 + 2  # pixels: two 3×3 of SPADE, half of 16 at stride 2, and 5 dilated by 2 at twice the resolution
LARGEST = 1024 * 1024  # pixels of a picture that is decoded at once by default
SIDE = 512  # pixels, of the tiles of larger ones
SMALLEST = 64  # pixels; in smaller tiles most of the work would be done twice


def check_tile(side: int | None) -> None:
    """Refuse a side of tiles that nobody wants.

    Raises:
        ConfigError: if it is below `SMALLEST`.
    """
    if side is not None and side < SMALLEST:
        raise ConfigError(f"tile is {side}: it must be {SMALLEST} or more, or null.")


def expand_in_tiles(expander: FluxExpander, packed: Tensor, latent_size: tuple[int, int], side: int) -> Tensor:
    """What `expander` draws of packets, one after the other and in tiles; without gradients.

    Args:
        expander: the decoder.
        packed: [B, T + 1, D + context].
        latent_size: (h, w).
        side: of a tile, in pixels of the map that a block makes.

    Returns:
        Images [B, 3, H, W].
    """
    with torch.no_grad():
        return torch.cat([_expand(expander, one, latent_size, side) for one in packed.split(1)])


def _expand(expander: FluxExpander, packed: Tensor, latent_size: tuple[int, int], side: int) -> Tensor:
    latent = to_map(packed[:, :-1], latent_size)
    x, context = latent[:, : expander.d_model], latent[:, expander.d_model :]
    context = context if context.shape[1] else x
    for block in expander.upscale:
        assert isinstance(block, UpsampleBlock)
        x = _double(block, x, context, max(1, side // 2))
    for layer in expander.to_rgb_conv:  # one by one, so that each map goes when the next is there
        x = layer(x)
    return expander.rgb_activation(x)


def _double(block: UpsampleBlock, x: Tensor, context: Tensor, side: int) -> Tensor:
    """`block` on x [1, C, H, W], in tiles of `side` pixels of x."""
    normed = block.spade.bn(x)
    context = F.interpolate(context, size=x.shape[2:], mode="bilinear", align_corners=False)
    result = None
    for (rows, inner_rows, high), (columns, inner_columns, wide) in product(
        _spans(x.shape[2], side), _spans(x.shape[3], side)
    ):
        part = (..., rows, columns)
        drawn = block.draw(block.spade.modulate(normed[part], context[part]), x[part])
        if result is None:
            result = drawn.new_empty(*drawn.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        result[..., high, wide] = drawn[..., inner_rows, inner_columns]
    assert result is not None
    return result


def _spans(length: int, side: int) -> Iterator[tuple[slice, slice, slice]]:
    """Tiles of one dimension: what a tile takes in, which part of its result counts, and where that goes."""
    for start in range(0, length, side):
        end = min(start + side, length)
        first, last = max(0, start - HALO), min(length, end + HALO)
        yield slice(first, last), slice(2 * (start - first), 2 * (end - first)), slice(2 * start, 2 * end)
