"""Where the windows lie that fourier.py computes a convolution by, and whether that pays.

A tile is a square of outputs that are computed together. They depend on a patch of the input of side tile + taps − 1.
A convolution of dilation 2 is four of dilation 1 between every second pixel of input and output. So is a transposed one
of stride 2 with a kernel w of 2·half taps, between all of the input and every second output (autotune.py):

    y[2j + q] = Σ_a  x[j + shift − a] · w[2a + r]        shift, r = divmod(q + padding, 2)

There each parity has a kernel of its own; for an odd padding those of one parity begin a tap later than the others.
"""

from collections.abc import Iterator
from functools import cache
from itertools import product
from typing import NamedTuple

import torch
from torch import Tensor

TILES = (4, 8, 16)
# As measured, in the time of a multiplication in a float32 matrix product: a multiplication of a direct convolution in
# float32 and in bfloat16; what a number of a spectrum takes to be computed, written and read; to be read alone.
DIRECT, DIRECT_BFLOAT16, TRANSFORM, READ = 0.8, 0.45, 55, 30
CHUNK = 6_000_000  # numbers of an intermediate result, which should stay in the cache
PATCHES = 128  # that are worked on at a time
LANES = 16  # windows that fourier.c transforms at once
KEPT = 1 << 25  # numbers of a weight's spectra up to which they may be kept


class Windows(NamedTuple):
    """Windows (o, i) of a contiguous tensor; struct windows of fourier.c.

    Attributes:
        outer: where the first number of window (o, 0) is, for each o.
        inner: how much further on window (o, i) begins, for each i.
        steps: from row to row and from column to column of a window.
        size: rows and columns of a window.
        first: its first row and column within a window of the whole size.
    """

    outer: Tensor
    inner: Tensor
    steps: tuple[int, int]
    size: int
    first: tuple[int, int] = (0, 0)


class Tiling(NamedTuple):
    """A convolution as products of spectra.

    Attributes:
        taps: side of a kernel.
        tile: side of a tile.
        outputs: channels of the output.
        margins: by which the input is padded, as F.pad takes them.
        covered: size of the output that the tiles make up.
        size: of that, what is the output.
        patches: of the padded input, [channels, B·tiles].
        parts: kernels [outputs, channels] of the weight and the tiles [outputs, B·tiles] of the output that they make.
        channels_first: kernels are [channels, outputs], as they lie in the weight of a transposed convolution.
    """

    taps: int
    tile: int
    outputs: int
    margins: tuple[int, int, int, int]
    covered: tuple[int, int]
    size: tuple[int, int]
    patches: Windows
    parts: tuple[tuple[Windows, Windows], ...]
    channels_first: bool

    @property
    def numbers(self) -> int:
        """Real numbers of a spectrum."""
        return patch_side(self.taps, self.tile) ** 2

    @property
    def kernel_numbers(self) -> int:
        """Numbers of the spectra of all kernels."""
        return self.numbers * len(self.patches.outer) * self.outputs * len(self.parts)

    def patch_chunks(self) -> list[Windows]:
        """Patches, so many at a time that spectra fit into the cache."""
        return [self.patches._replace(inner=some) for some in self.patches.inner.split(PATCHES)]

    def chunks(self) -> Iterator[tuple[Windows, list[Windows]]]:
        """Kernels for some of the outputs, with their tiles in the chunks of the patches."""
        channels, patches = len(self.patches.outer), len(self.patches.inner)
        at_once = max(1, CHUNK // (LANES * self.numbers * max(channels, min(patches, PATCHES)))) * LANES
        for kernels, tiles in self.parts:
            outputs = (kernels.inner if self.channels_first else kernels.outer).split(at_once)
            for some, places in zip(outputs, tiles.outer.split(at_once), strict=True):
                yield (
                    kernels._replace(**{"inner" if self.channels_first else "outer": some}),
                    [tiles._replace(outer=places, inner=inner) for inner in tiles.inner.split(PATCHES)],
                )


def patch_side(taps: int, tile: int) -> int:
    """Side of a patch, even."""
    return tile + taps - taps % 2


def best_tile(
    batch: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    taps: int,
    direct_taps: int,
    bfloat16: bool,
    kept: bool = False,
) -> int | None:
    """The tile that computes a convolution fastest, by its operations, or None where direct summation does.

    Args:
        batch: maps.
        channels: of input and output.
        size: of the output.
        taps: side of the kernel.
        direct_taps: taps that a direct convolution takes for an output.
        bfloat16: that is how a direct one would be computed.
        kept: spectra of kernels are, if they are not too many.
    """
    both = channels[0] * channels[1]

    def time(tile: int) -> float:
        tiles = batch * (-(-size[0] // tile)) * (-(-size[1] // tile))
        numbers = patch_side(taps, tile) ** 2
        products = 4 + 3 * (numbers - 4) // 2  # four frequencies are real, and a complex product takes three
        columns = -(-tiles // LANES) * LANES  # of the matrices, which come in whole vectors
        kernels = READ if kept and numbers * both <= KEPT else TRANSFORM
        return products * columns * both + numbers * (TRANSFORM * tiles * sum(channels) + kernels * both)

    best = min(TILES, key=time)
    direct = (DIRECT_BFLOAT16 if bfloat16 else DIRECT) * direct_taps * both * batch * size[0] * size[1]
    return best if time(best) < direct else None


def places(*dimensions: tuple[int, int]) -> Tensor:
    """Offsets of all positions in dimensions (size, step), the last one fastest."""
    offsets = torch.zeros(1, dtype=torch.int64, device="cpu")
    for size, step in dimensions:
        offsets = (offsets[:, None] + torch.arange(size, device="cpu") * step).flatten()
    return offsets


Shape = tuple[int, int, int, int]


def same(
    shape: Shape, outputs: int, taps: int, dilation: int, bfloat16: bool = False, kept: bool = False
) -> Tiling | None:
    """A convolution of stride 1 with an odd kernel that keeps the size, where it pays.

    Args:
        shape: of the input.
        outputs: channels of the output.
        taps: side of the kernel.
        dilation: of the kernel.
        bfloat16: what the alternative is computed in, else float32.
        kept: spectra of kernels are, if they are not too many.
    """
    batch, channels, *size = shape
    phase = -(-size[0] // dilation), -(-size[1] // dilation)
    tile = best_tile(batch * dilation**2, (channels, outputs), phase, taps, taps**2, bfloat16, kept)
    return None if tile is None else _same(shape, outputs, taps, dilation, tile)


def transposed(
    shape: Shape, outputs: int, taps: int, padding: int, bfloat16: bool = False, kept: bool = False
) -> Tiling | None:
    """A transposed convolution of stride 2 with an even kernel, where it pays and doubles the size.

    Args:
        shape: of the input.
        outputs: channels of the output.
        taps: side of the kernel.
        padding: of the convolution that this is the transpose of.
        bfloat16, kept: as for `same`.
    """
    if padding != taps // 2 - 1:
        return None
    batch, channels, *size = shape
    half = taps // 2
    tile = best_tile(batch, (channels, 4 * outputs), (size[0], size[1]), half + padding % 2, half**2, bfloat16, kept)
    return None if tile is None else _transposed(shape, outputs, taps, padding, tile)


@cache
def _same(shape: Shape, outputs: int, taps: int, dilation: int, tile: int) -> Tiling:
    batch, channels, *size = shape
    rows, columns = (-(-length // (dilation * tile)) for length in size)
    padded = dilation * (rows * tile + taps - 1), dilation * (columns * tile + taps - 1)
    covered = rows * tile * dilation, columns * tile * dilation

    def windows(maps: int, height: int, width: int, side: int) -> Windows:
        phases = (dilation, width), (dilation, 1)
        tiles = (rows, tile * dilation * width), (columns, tile * dilation)
        outer, inner = places((maps, height * width)), places((batch, maps * height * width), *phases, *tiles)
        return Windows(outer, inner, (dilation * width, dilation), side)

    kernels = Windows(places((outputs, channels * taps**2)), places((channels, taps**2)), (taps, 1), taps)
    margins = _margins(dilation * (taps // 2), size, padded)
    patches, tiles = windows(channels, *padded, patch_side(taps, tile)), windows(outputs, *covered, tile)
    return Tiling(taps, tile, outputs, margins, covered, (size[0], size[1]), patches, ((kernels, tiles),), False)


@cache
def _transposed(shape: Shape, outputs: int, taps: int, padding: int, tile: int) -> Tiling:
    (batch, channels, *size), half = shape, taps // 2
    of_all = half + padding % 2
    rows, columns = (-(-length // tile) for length in size)
    side = patch_side(of_all, tile)
    height, width = ((count - 1) * tile + side for count in (rows, columns))
    covered = 2 * rows * tile, 2 * columns * tile

    inner = places((batch, channels * height * width), (rows, tile * width), (columns, tile))
    patches = Windows(places((channels, height * width)), inner, (width, 1), side)
    inner = places((batch, outputs * covered[0] * covered[1]), (rows, 2 * tile * covered[1]), (columns, 2 * tile))
    parts = []
    for parity in product(range(2), repeat=2):
        (row_shift, row), (column_shift, column) = (divmod(q + padding, 2) for q in parity)
        last = (taps - 2 + row) * taps + taps - 2 + column  # taps run backwards
        first = row_shift - padding // 2, column_shift - padding // 2
        by_channel, by_output = places((channels, outputs * taps**2)), places((outputs, taps**2)) + last
        outer = places((outputs, covered[0] * covered[1])) + parity[0] * covered[1] + parity[1]
        tiles = Windows(outer, inner, (2 * covered[1], 2), tile)
        parts.append((Windows(by_channel, by_output, (-2 * taps, -2), half, first), tiles))
    margins = _margins(half - 1 - padding // 2, size, (height, width))
    return Tiling(of_all, tile, outputs, margins, covered, (2 * size[0], 2 * size[1]), patches, tuple(parts), True)


def _margins(before: int, size: list[int], padded: tuple[int, ...]) -> tuple[int, int, int, int]:
    below, right = (whole - before - length for whole, length in zip(padded, size, strict=True))
    return before, right, before, below
