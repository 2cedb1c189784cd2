"""Stride-2 convolutions whose weight gradient is taken in four stride-1 phases on CPU.

A stride-2 layer correlates a small map s with a big map b, whichever of the two is its input:

    ∂L/∂w[k] = Σ_i  s[i] · b[2i + k − padding]

For k = 2a + r only every second element of b takes part, so with b_q[j] = b[2j + q] this is a stride-1 weight gradient
of half the kernel size for each of the 2×2 phases r. oneDNN runs those at the speed of a matrix product, and the
strided one several times slower; the result is the same up to rounding. Elsewhere than on CPU PyTorch's own gradient is
used.
"""

from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.nn.grad import conv2d_weight


def phase(big: Tensor, dim: int, r: int, half: int, padding: int, length: int) -> Tensor:
    """The elements of `big` that kernel taps 2a + r meet along `dim`, padded so that tap a of output i meets i + a."""
    shift, parity = divmod(r - padding, 2)
    plane = big.narrow(dim, parity, big.shape[dim] - parity)
    plane = plane[(slice(None),) * dim + (slice(None, None, 2),)]
    before, after = -shift, length + half - 1 + shift - plane.shape[dim]
    pad = [0, 0, before, after] if dim == 2 else [before, after]
    return F.pad(plane, pad)


def stride2_weight_grad(small: Tensor, big: Tensor, kernel: int, padding: int) -> Tensor:
    """Weight gradient of a stride-2 layer, [C_small, C_big, kernel, kernel].

    Args:
        small: the map of the coarse side, [B, C_small, h, w].
        big: the map of the fine side, [B, C_big, H, W].
        kernel: side of the kernel, even.
        padding: padding of the layer.
    """
    channels, half = (small.shape[1], big.shape[1]), kernel // 2
    grad = small.new_empty(*channels, kernel, kernel)
    for r in range(2):
        rows = phase(big, 2, r, half, padding, small.shape[2])
        for c in range(2):
            plane = phase(rows, 3, c, half, padding, small.shape[3]).contiguous()
            grad[..., r::2, c::2] = conv2d_weight(plane, (*channels, half, half), small)
    return grad


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, stride=2, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        kernel, padding = weight.shape[-1], ctx.padding
        extra = tuple(size - 2 * (small - 1) + 2 * padding - kernel for size, small in zip(x.shape[2:], grad.shape[2:]))
        needs_x, needs_weight, _ = ctx.needs_input_grad
        return (
            F.conv_transpose2d(grad, weight, stride=2, padding=padding, output_padding=extra) if needs_x else None,
            stride2_weight_grad(grad, x, kernel, padding) if needs_weight else None,
            None,
        )


class _ConvTranspose(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv_transpose2d(x, weight, stride=2, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        return (
            F.conv2d(grad, weight, stride=2, padding=ctx.padding) if needs_x else None,
            stride2_weight_grad(x, grad, weight.shape[-1], ctx.padding) if needs_weight else None,
            None,
        )


def _on_cpu(function: type[torch.autograd.Function], x: Tensor, layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """Applies the phase form in the dtype that autocast would choose, and adds the bias."""
    weight, bias, padding = layer.weight, layer.bias, layer.padding[0]
    if torch.is_autocast_enabled("cpu"):
        dtype = torch.get_autocast_dtype("cpu")
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    y = function.apply(x, weight, padding)
    return y if bias is None else y + bias[:, None, None]


class Conv2dStride2(nn.Conv2d):
    """nn.Conv2d of stride 2 with an even, square kernel: same parameters and numbers, faster weight gradient on CPU."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2, padding=padding)

    def forward(self, input: Tensor) -> Tensor:
        return _on_cpu(_Conv, input, self) if input.device.type == "cpu" else super().forward(input)


class ConvTranspose2dStride2(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of stride 2 with an even, square kernel; otherwise as `Conv2dStride2`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2, padding=padding)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if input.device.type == "cpu" and output_size is None:
            return _on_cpu(_ConvTranspose, input, self)
        return super().forward(input, output_size)
