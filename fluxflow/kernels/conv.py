"""Convolutions in several forms that are equal up to rounding, and which of them a layer takes.

A stride-2 layer correlates a small map s with a big map b, whichever of the two is its input:

    ∂L/∂w[k] = Σ_i  s[i] · b[2i + k − padding]

For k = 2a + r only every second element of b takes part, so with b_q[j] = b[2j + q] this is a stride-1 weight gradient
of half the kernel size for each of the 2×2 phases r. On CPU oneDNN runs those at the speed of a matrix product, and the
strided one several times slower, so there the phases are always taken. The input gradient of the transposed layer,

    ∂L/∂s[i] = Σ_k  b[2i + k − padding] · w[k]

is the sum of stride-1 convolutions of the same phases. On CUDA the forms of a layer, of which autotune.py has two more,
are timed once for each shape where `torch.backends.cudnn.benchmark` allows it; otherwise PyTorch's own is used.

On CPU large kernels over large maps take the way through fourier.py, forward and backward.
"""

from collections.abc import Iterator, Mapping, Sequence
from functools import partial, reduce
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.kernels import enabled, fourier, tiling
from fluxflow.kernels.autotune import Autotuner, Form, four_convolutions, may_time, one_convolution


def phase(big: Tensor, dim: int, r: int, half: int, padding: int, length: int) -> Tensor:
    """The elements of `big` that kernel taps 2a + r meet along `dim`, padded so that tap a of output i meets i + a."""
    shift, parity = divmod(r - padding, 2)
    plane = big.narrow(dim, parity, big.shape[dim] - parity)
    plane = plane[(slice(None),) * dim + (slice(None, None, 2),)]
    before, after = -shift, length + half - 1 + shift - plane.shape[dim]
    pad = [0, 0, before, after] if dim == 2 else [before, after]
    return F.pad(plane, pad)


def phases(big: Tensor, half: int, padding: int, size: Sequence[int]) -> Iterator[tuple[Any, Tensor]]:
    """The index of the taps of each of the 2×2 phases in a kernel, and the part of `big` that they meet."""
    for r in range(2):
        rows = phase(big, 2, r, half, padding, size[0])
        for c in range(2):
            plane = phase(rows, 3, c, half, padding, size[1])
            yield (..., slice(r, None, 2), slice(c, None, 2)), plane.contiguous()


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
    for taps, plane in phases(big, half, padding, small.shape[2:]):
        grad[taps] = _weight_grad(small, plane, small.new_empty(*channels, half, half))
    return grad


def _weight_grad(grad: Tensor, x: Tensor, weight: Tensor) -> Tensor:
    """∂L/∂w of y = conv2d(x, w) where ∂L/∂y = grad; of `weight` only the shape counts.

    As torch.nn.grad.conv2d_weight, which has PyTorch copy a tensor of that shape first.
    """
    options = None, (1, 1), (0, 0), (1, 1), False, (0, 0), 1, (False, True, False)
    return torch.ops.aten.convolution_backward(grad, x, weight, *options)[1]


def stride2_correlation(big: Tensor, weight: Tensor, padding: int, size: Sequence[int]) -> Tensor:
    """F.conv2d(big, weight, stride=2, padding=padding), [B, C_small, *size], the input gradient of a transposed layer.

    Where the maps are small, PyTorch's strided form is faster, but may be further off than a product in float32.
    """
    planes = phases(big, weight.shape[-1] // 2, padding, size)
    return reduce(torch.add, (F.conv2d(plane, weight[taps]) for taps, plane in planes))


class _Conv(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, padding: int) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.padding = padding
        return F.conv2d(x, weight, stride=2, padding=padding)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
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
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight = ctx.saved_tensors
        needs_x, needs_weight, _ = ctx.needs_input_grad
        return (
            stride2_correlation(grad, weight, ctx.padding, x.shape[2:]) if needs_x else None,
            stride2_weight_grad(x, grad, weight.shape[-1], ctx.padding) if needs_weight else None,
            None,
        )


def _direct(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return F.conv2d(x, weight, bias, stride=2, padding=padding)


def _phased(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    y = _Conv.apply(x, weight, padding)
    return y if bias is None else y + bias[:, None, None]


def _direct_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    return F.conv_transpose2d(x, weight, bias, stride=2, padding=padding)


def _phased_transposed(x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> Tensor:
    y = _ConvTranspose.apply(x, weight, padding)
    return y if bias is None else y + bias[:, None, None]


FORMS: Mapping[str, Form] = {"direct": _direct, "phased gradients": _phased}
TRANSPOSED_FORMS: Mapping[str, Form] = {
    "direct": _direct_transposed,
    "phased gradients": _phased_transposed,
    "four convolutions": four_convolutions,
    "one convolution": one_convolution,
}
autotuner = Autotuner()


def _run(forms: Mapping[str, Form], x: Tensor, layer: nn.Conv2d | nn.ConvTranspose2d) -> Tensor:
    """Applies the layer in the form for its device, in the dtype that autocast would choose."""
    weight, bias, padding, device = layer.weight, layer.bias, int(layer.padding[0]), x.device.type
    if not enabled() or device not in ("cpu", "cuda"):
        return forms["direct"](x, weight, bias, padding)
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        x, weight, bias = x.to(dtype), weight.to(dtype), None if bias is None else bias.to(dtype)
    name = "phased gradients" if device == "cpu" else "direct"
    if device == "cuda" and may_time():
        name = autotuner.fastest(forms, x, weight, bias, padding)
    return forms[name](x, weight, bias, padding)


class Conv2dStride2(nn.Conv2d):
    """nn.Conv2d of stride 2 with an even, square kernel: same parameters and numbers, in the fastest form."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2, padding=padding)

    def forward(self, input: Tensor) -> Tensor:
        return _run(FORMS, input, self)


class ConvTranspose2dStride2(nn.ConvTranspose2d):
    """nn.ConvTranspose2d of stride 2 with an even, square kernel; otherwise as `Conv2dStride2`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, padding: int) -> None:
        super().__init__(in_channels, out_channels, kernel_size, stride=2, padding=padding)

    def forward(self, input: Tensor, output_size: list[int] | None = None) -> Tensor:
        if output_size is not None:
            return super().forward(input, output_size)
        padding, taps = int(self.padding[0]), self.kernel_size[0]
        how = fourier.tiling_for(input, self.weight, tiling.transposed, self.out_channels, taps, padding)
        if how is None:
            return _run(TRANSPOSED_FORMS, input, self)
        direct = partial(F.conv_transpose2d, stride=2, padding=padding)
        return fourier.correlate(input, self.weight, self.bias, how, direct)


class Conv2dSame(nn.Conv2d):
    """nn.Conv2d of stride 1 with an odd, square kernel that keeps the size; otherwise as `Conv2dStride2`."""

    def __init__(self, in_channels: int, out_channels: int, kernel_size: int, dilation: int = 1) -> None:
        reach = dilation * (kernel_size // 2)
        super().__init__(in_channels, out_channels, kernel_size, padding=reach, dilation=dilation)

    def forward(self, input: Tensor) -> Tensor:
        taps, dilation = self.kernel_size[0], self.dilation[0]
        how = fourier.tiling_for(input, self.weight, tiling.same, self.out_channels, taps, dilation)
        if how is None:
            return super().forward(input)
        direct = partial(F.conv2d, padding=int(self.padding[0]), dilation=dilation)
        return fourier.correlate(input, self.weight, self.bias, how, direct)


def for_convolutions(maps: Tensor) -> Tensor:
    """Maps [B, C, H, W] in channels_last on CUDA, planar elsewhere; a copy where they lie otherwise."""
    return maps.contiguous(memory_format=torch.channels_last if maps.is_cuda else torch.contiguous_format)


def to_signed(image: Tensor) -> Tensor:
    """uint8 images [B, 3, H, W] of any memory format as floats in [-1, 1], in that of the device's convolutions."""
    return for_convolutions(image).float() / 127.5 - 1
