"""Transposed convolutions of stride 2 as stride-1 convolutions followed by a pixel shuffle.

With an even kernel of 2·half taps, outputs of one parity q meet every second tap of the kernel w:

    y[2j + q] = Σ_a  x[j + shift − a] · w[2a + r]        shift, r = divmod(q + padding, 2)

that is a convolution of x with `half` taps for each of the 2×2 parities. Either four convolutions compute them, or one
with the taps of all four side by side, which for an odd padding needs one tap more, since the shifts then differ.
"""

import torch
import torch.nn.functional as F
from torch import Tensor


def _taps(weight: Tensor, dim: int, q: int, padding: int) -> Tensor:
    """The taps that outputs of parity q meet along `dim`, in the order in which a convolution meets its input."""
    return weight.unflatten(dim, (-1, 2)).select(dim + 1, (q + padding) % 2).flip(dim)


def four_convolutions(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """F.conv_transpose2d(x, weight, bias, stride=2, padding=padding) for an even, square kernel."""
    half = weight.shape[-1] // 2
    margins = []
    for q in range(2):
        before = half - 1 - (q + padding) // 2
        margins.append((before, 2 * half - 2 - padding - before))
    phases = []
    for row in range(2):
        rows = _taps(weight, 2, row, padding)
        for column in range(2):
            taps = _taps(rows, 3, column, padding).transpose(0, 1)
            phases.append(F.conv2d(F.pad(x, (*margins[column], *margins[row])), taps, bias))
    return F.pixel_shuffle(torch.stack(phases, 2).flatten(1, 2), 2)


def one_convolution(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    """The same."""
    half, odd = weight.shape[-1] // 2, padding % 2
    before = half - 1 - padding // 2
    margin = (before, 2 * half - 2 - padding - before + odd)
    phases = []
    for row in range(2):
        rows = _taps(weight, 2, row, padding)
        for column in range(2):
            taps = _taps(rows, 3, column, padding).transpose(0, 1)
            room = (odd * column, odd * (1 - column), odd * row, odd * (1 - row))
            phases.append(F.pad(taps, room))
    kernel = torch.stack(phases, 1).flatten(0, 1)
    y = F.conv2d(F.pad(x, margin * 2), kernel, None if bias is None else bias.repeat_interleave(4))
    return F.pixel_shuffle(y, 2)
