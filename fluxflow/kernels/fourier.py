"""Stride-1 convolutions by tiles in the frequency domain, for large kernels over large maps, without gradients.

A tile of TILE² outputs depends on a patch of side N = TILE + k − 1. The discrete Fourier transform of size N turns the
correlation of patch and kernel into a product at each frequency (Nussbaumer, "Fast Fourier Transform and Convolution
Algorithms", 1981; Mathieu et al., 2013), summed over the channels by a matrix product. What is real has one number at
0 and N/2, and conjugate pairs elsewhere; the product of two complex numbers takes three real ones (Gauss):

    t₁ = k_r·(x_r + x_i)    t₂ = x_r·(k_i − k_r)    t₃ = x_i·(k_r + k_i)        y_r = t₁ − t₃    y_i = t₁ + t₂

Together that is y = Cᵀ·((B·k) ⊙ (A·x)) with constant real matrices A, B and C, as in Winograd's algorithms, but
with the accuracy of direct summation. Kernels of 9×9 take a tenth of the multiplications, those of 5×5 a seventh, and
transforms take their share; `pays` weighs the two.
"""

import math
from functools import cache
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

TILE = 8
OVERHEAD = 2.0  # how much longer the operations here take than those of a direct convolution
CHUNK = 3_000_000  # numbers of an intermediate result, which should stay in the cache


class Transforms(NamedTuple):
    """The constant matrices of a kernel's side, with a row for each real product of a pair of channels.

    Attributes:
        patch: A, [products, N²].
        kernel: B, [products, k²].
        tile: C, [products, TILE²].
    """

    patch: Tensor
    kernel: Tensor
    tile: Tensor


@cache
def transforms(taps: int) -> Transforms:
    """The matrices for kernels of side `taps`."""
    side = patch_side(taps)
    half = side // 2
    frequencies = [(u, v) for v in range(half + 1) for u in range(side) if v % half or u <= half]
    u, v = torch.tensor(frequencies, dtype=torch.float64).mT[:, :, None, None]
    place = torch.arange(side, dtype=torch.float64)
    angle = 2 * math.pi / side * (u * place[:, None] + v * place)  # [frequencies, N, N]
    cos, sin = angle.cos(), angle.sin()
    alone = torch.tensor([u % half == 0 and v % half == 0 for u, v in frequencies])  # real
    share = torch.where(alone, 1.0, 2.0)[:, None, None] / side**2  # a frequency stands for its conjugate, too

    def rows(first: Tensor, second: Tensor, third: Tensor, size: int) -> Tensor:
        return torch.cat([first, second[~alone], third[~alone]])[:, :size, :size].flatten(1).float()

    return Transforms(
        rows(cos - sin, cos, -sin, side),  # x_r + x_i, x_r, x_i of e^(−iθ)
        rows(cos, sin - cos, cos + sin, taps),  # k_r, k_i − k_r, k_r + k_i of e^(iθ), for a correlation
        rows(share * (cos - sin), -share * sin, -share * cos, TILE),  # of y_r·cos − y_i·sin
    )


def patch_side(taps: int) -> int:
    """N, even."""
    return TILE + taps - taps % 2


def tiles_over(length: int) -> int:
    return -(-length // TILE)


def pays(batch: int, channels: tuple[int, int], size: tuple[int, int], taps: int, direct_taps: int) -> bool:
    """Whether `correlate` is faster than a direct convolution, by their operations.

    Args:
        batch: maps.
        channels: of input and output.
        size: of the output.
        taps: side of the kernel.
        direct_taps: taps that a direct convolution would take for an output.
    """
    products, tiles = len(transforms(taps).tile), batch * tiles_over(size[0]) * tiles_over(size[1])
    both = channels[0] * channels[1]
    summed = tiles * (both + patch_side(taps) ** 2 * channels[0] + TILE**2 * channels[1]) + taps**2 * both
    return OVERHEAD * products * summed < direct_taps * both * batch * size[0] * size[1]


def correlate(x: Tensor, weight: Tensor, shuffle: int = 1) -> Tensor:
    """F.pixel_shuffle(F.conv2d(x, weight), shuffle) in float32, within 2e-6 of the largest value.

    Args:
        x: [B, C, H + k − 1, W + k − 1].
        weight: [C_out, C, k, k].
        shuffle: factor of the pixel shuffle, whose square divides C_out.

    Returns:
        [B, C_out / shuffle², H·shuffle, W·shuffle].
    """
    (batch, channels, *padded), (outputs, _, taps, _) = x.shape, weight.shape
    matrices, side, squared = transforms(taps), patch_side(taps), shuffle**2
    height, width = (length - taps + 1 for length in padded)
    rows, columns = tiles_over(height), tiles_over(width)
    x = F.pad(x, (0, (columns - 1) * TILE + side - padded[1], 0, (rows - 1) * TILE + side - padded[0]))
    patches = x.unfold(2, side, TILE).unfold(3, side, TILE).permute(4, 5, 1, 0, 2, 3)  # [N, N, C, B, rows, columns]
    spectrum = (matrices.patch @ patches.reshape(side**2, -1)).view(len(matrices.patch), channels, -1)
    y = x.new_empty(batch, outputs // squared, rows, TILE, shuffle, columns, TILE, shuffle)
    step = max(1, CHUNK // (len(spectrum) * max(channels, spectrum.shape[2]) * squared))  # channels of y at a time
    for place, kernels in enumerate(weight.reshape(outputs, -1).split(step * squared)):
        transformed = (matrices.kernel @ kernels.reshape(-1, taps**2).mT).view(len(spectrum), -1, channels)
        product = torch.bmm(transformed, spectrum)  # [products, outputs, tiles]
        part = (product.flatten(1).mT @ matrices.tile).view(-1, shuffle, shuffle, batch, rows, columns, TILE, TILE)
        y[:, place * step : (place + 1) * step] = part.permute(3, 0, 4, 6, 1, 5, 7, 2)
    y = y.view(batch, -1, rows * TILE * shuffle, columns * TILE * shuffle)
    return y[..., : height * shuffle, : width * shuffle].contiguous()
