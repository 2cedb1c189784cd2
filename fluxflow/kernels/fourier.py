"""Convolutions by tiles in the frequency domain, for large kernels over large maps on CPU.

The discrete Fourier transform F of a patch x turns its correlation with a kernel k into a product at each frequency
(Nussbaumer, "Fast Fourier Transform and Convolution Algorithms", 1981; Mathieu et al., 2013), summed over the channels
by a matrix product of complex numbers:

    y = F⁻¹( conj(F·k) ⊙ F·x )

That is exact as direct summation is, unlike Winograd's algorithms. In tiles of 8×8, kernels of 9×9 take a fourteenth of
the multiplications and those of 5×5 a seventh. It is linear in x and in k, so that gradients take the same; with * for
an adjoint and g the conjugate of (F⁻¹)*·∂L/∂y,

    ∂L/∂x = F*·conj( conj(F·k) ⊙ g )        ∂L/∂k = F*·( g ⊙ F·x )

fourier.c applies F, F⁻¹ and their adjoints; where a tensor has its patches, kernels and tiles says tiling.py. Under
autocast to bfloat16 all of it stays in float32, and only the results are rounded.
"""

import ctypes
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.kernels import native
from fluxflow.kernels.tiling import KEPT, LANES, Tiling, Windows

Direct = Callable[[Tensor, Tensor], Tensor]  # of input and weight
KINDS = ("patches", "kernels", "tiles")
SAVED = 1 << 24  # numbers of a weight's spectra up to which the backward finds those of the forward
Kept = dict[tuple[int, ...], tuple[Tensor, int, Tensor]]  # a weight, its version, spectra
_kept: ContextVar[Kept | None] = ContextVar("kept", default=None)


class _Windows(ctypes.Structure):
    """struct windows of fourier.c."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("outer", "inner")] + [
        (name, ctypes.c_int64)
        for name in ("outer_count", "inner_count", "row_step", "column_step", "size", "first_row", "first_column")
    ]


@cache
def library(taps: int, tile: int) -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("fourier.c", f"TAPS={taps}", f"TILE={tile}")
    for name in () if loaded is None else (f"{verb}_{kind}" for verb in ("analyse", "synthesise") for kind in KINDS):
        function = getattr(loaded, name)
        function.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.POINTER(_Windows), ctypes.c_int]
        function.restype = None
    return loaded


def tiling_for(x: Tensor, weight: Tensor, tiling_of: Callable[..., Tiling | None], *sizes: int) -> Tiling | None:
    """The tiling of a layer for x, or None where the layer has to be computed otherwise.

    Args:
        x: the input.
        weight: of the layer.
        tiling_of: a function of tiling.py.
        sizes: its arguments after the shape of the input.
    """
    autocast = torch.is_autocast_enabled("cpu")
    dtypes = (torch.float32, torch.bfloat16) if _bfloat16() else () if autocast else (torch.float32,)
    if x.dtype not in dtypes or weight.dtype != torch.float32 or x.numel() == 0 or not native.takes(x, weight):
        return None
    tiling = tiling_of(tuple(x.shape), *sizes, bfloat16=_bfloat16(), kept=_keeps(weight))
    return tiling if tiling is not None and library(tiling.taps, tiling.tile) is not None else None


def _bfloat16() -> bool:
    """Whether autocast asks for bfloat16."""
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def _call(verb: str, kind: str, source: Tensor, target: Tensor, where: Windows, tiling: Tiling) -> None:
    counts = len(where.outer), len(where.inner)
    struct = _Windows(where.outer.data_ptr(), where.inner.data_ptr(), *counts, *where.steps, where.size, *where.first)
    function = getattr(library(tiling.taps, tiling.tile), f"{verb}_{kind}")
    function(source.data_ptr(), target.data_ptr(), ctypes.byref(struct), torch.get_num_threads())


def _empty(like: Tensor, numbers: int, outer: int, inner: int) -> Tensor:
    """Space for spectra as fourier.c has them: [numbers, outer, inner], in rows of whole lines."""
    return like.new_empty(numbers, outer, -(-inner // LANES) * LANES)[..., :inner]


def _analyse(kind: str, tensor: Tensor, where: Windows, tiling: Tiling) -> Tensor:
    """The spectra of windows of a contiguous tensor."""
    spectra = _empty(tensor, tiling.numbers, len(where.outer), len(where.inner))
    _call("analyse", kind, tensor, spectra, where, tiling)
    return spectra


def _synthesise(kind: str, spectra: Tensor, tensor: Tensor, where: Windows, tiling: Tiling) -> None:
    """Writes the windows of a contiguous tensor by the adjoint of `_analyse`; patches are added to what is there."""
    _call("synthesise", kind, spectra, tensor, where, tiling)


def _patches(x: Tensor, tiling: Tiling) -> list[Tensor]:
    """The spectra of the patches of the input, in chunks."""
    padded = F.pad(x, tiling.margins).contiguous()
    return [_analyse("patches", padded, where, tiling) for where in tiling.patch_chunks()]


def _product(a: Tensor, b: Tensor, plus: Tensor | None = None) -> Tensor:
    """The matrix product at each frequency, added to `plus` in place if it is given.

    It is computed without the gaps between rows that `_empty` leaves: PyTorch hands a batch to MKL in one call only
    where the result is contiguous, which makes small products up to ten times as fast.
    """
    in_place = plus is not None and plus.is_contiguous()
    y = plus if plus is not None and in_place else a.new_empty(len(a), a.shape[1], b.shape[2])
    before = 1 if in_place else 0
    (real_a, a_r, a_i), (real_b, b_r, b_i), (real_y, y_r, y_i) = _parts(a), _parts(b), _parts(y)
    real_y.baddbmm_(real_a, real_b, beta=before)
    y_r.baddbmm_(a_r, b_r, beta=before).baddbmm_(a_i, b_i, alpha=-1)
    y_i.baddbmm_(a_r, b_i, beta=before).baddbmm_(a_i, b_r)
    if plus is not None:
        return plus if in_place else plus.add_(y)
    return y if y.shape[2] % LANES == 0 else _empty(a, *y.shape).copy_(y)


def _parts(spectra: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The four frequencies that are real, and real and imaginary part of the others, [frequencies, outer, inner]."""
    others = 4 + (len(spectra) - 4) // 2
    return spectra[:4], spectra[4:others], spectra[others:]


@contextmanager
def cached_kernel_spectra() -> Iterator[None]:
    """Inside, the spectra of a weight's kernels are kept from its first use until it changes, if they are not too many.

    They take several times the memory of the weight; over a few small maps they are a good part of the work.
    """
    token = _kept.set({})
    try:
        yield
    finally:
        _kept.reset(token)


def _keeps(weight: Tensor) -> bool:
    """Whether spectra of this weight are kept; one of inference mode does not tell when it changes."""
    return _kept.get() is not None and not weight.is_inference()


def _kernels(weight: Tensor, where: Windows, tiling: Tiling) -> Tensor:
    """The spectra of kernels, [numbers, outputs, channels]."""
    kept = _kept.get()
    if kept is None or not _keeps(weight) or tiling.kernel_numbers > KEPT:
        spectra = _analyse("kernels", weight, where, tiling)
    else:
        key = weight.data_ptr(), where.outer.data_ptr(), where.inner.data_ptr()
        if key not in kept or kept[key][1] != weight._version:
            kept[key] = weight, weight._version, _analyse("kernels", weight, where, tiling)
        spectra = kept[key][2]  # beside the weight, so that its memory is not another's meanwhile
    return spectra.mT if tiling.channels_first else spectra


def _grad_kernels(grad_tiles: list[Tensor], patches: list[Tensor], tiling: Tiling) -> Tensor:
    """The gradient of what `_analyse` made of kernels, a sum over all tiles."""
    pairs = zip(patches, grad_tiles) if tiling.channels_first else zip(grad_tiles, patches)
    (left, right), *others = ((left, right.mT) for left, right in pairs)
    grad = _product(left, right)
    for left, right in others:
        _product(left, right, grad)
    return grad


class _Correlation(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling, direct: Direct) -> Tensor:
        saved = [x, weight]
        with torch.autocast("cpu", enabled=False):
            patches, weight = _patches(x.float(), tiling), weight.contiguous()
            y = weight.new_empty(len(x), tiling.outputs, *tiling.covered)
            for kernels, tiles in tiling.chunks():
                spectra = _kernels(weight, kernels, tiling)
                if ctx.needs_input_grad[0] and tiling.kernel_numbers <= SAVED:
                    saved.append(spectra)
                for chunk, where in zip(patches, tiles, strict=True):
                    _synthesise("tiles", _product(spectra, chunk), y, where, tiling)
        ctx.save_for_backward(*saved)
        ctx.tiling, ctx.direct = tiling, direct
        if tiling.covered != tiling.size:  # a view that is returned could not be changed in place
            y = y[..., : tiling.size[0], : tiling.size[1]].clone(memory_format=torch.contiguous_format)
        y = y if bias is None else y.add_(bias[:, None, None])
        return y.bfloat16() if _bfloat16() else y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        x, weight, *spectra = ctx.saved_tensors
        needs_x, needs_weight, needs_bias, *_ = ctx.needs_input_grad
        grad = grad.float()
        with torch.autocast("cpu", enabled=False):
            if torch.is_grad_enabled():  # somebody will differentiate these gradients again
                grads = _differentiable(ctx.direct, x, weight, grad, (needs_x, needs_weight))
            else:
                grads = _gradients(ctx.tiling, x, weight, spectra, grad, (needs_x, needs_weight))
        return *grads, grad.sum((0, 2, 3)) if needs_bias else None, None, None


Gradients = tuple[Tensor | None, Tensor | None]  # of input and weight, where they are wanted


def _gradients(
    tiling: Tiling, x: Tensor, weight: Tensor, saved: list[Tensor], grad: Tensor, wanted: tuple[bool, bool]
) -> Gradients:
    needs_x, needs_weight = wanted
    patches, weight = _patches(x.float(), tiling), weight.contiguous()
    grad_patches: list[Any] = [None] * len(patches)  # spectra after the first kernels
    (height, width), covered = tiling.size, tiling.covered
    grad = F.pad(grad, (0, covered[1] - width, 0, covered[0] - height)).contiguous()
    grad_weight = torch.empty_like(weight) if needs_weight else None
    for kernels, tiles in tiling.chunks():
        grad_tiles = [_analyse("tiles", grad, where, tiling) for where in tiles]
        if needs_x:
            spectra = (saved.pop(0) if saved else _kernels(weight, kernels, tiling)).mT
            grad_patches = [
                _product(spectra, of_tiles, so_far) for so_far, of_tiles in zip(grad_patches, grad_tiles, strict=True)
            ]
        if grad_weight is not None:
            _synthesise("kernels", _grad_kernels(grad_tiles, patches, tiling), grad_weight, kernels, tiling)
    return _from_patches(grad_patches, x, tiling) if needs_x else None, grad_weight


def _from_patches(grad_patches: list[Tensor], x: Tensor, tiling: Tiling) -> Tensor:
    """The gradient of the input, where patches overlap."""
    left, right, top, bottom = tiling.margins
    grad = x.new_zeros(*x.shape[:2], x.shape[2] + top + bottom, x.shape[3] + left + right, dtype=torch.float32)
    for grad_chunk, where in zip(grad_patches, tiling.patch_chunks(), strict=True):
        _synthesise("patches", grad_chunk, grad, where, tiling)
    return F.pad(grad, (-left, -right, -top, -bottom)).to(x.dtype)


def _differentiable(direct: Direct, x: Tensor, weight: Tensor, grad: Tensor, wanted: tuple[bool, bool]) -> Gradients:
    """The gradients of `direct`, for which there are further ones."""
    inputs = [tensor for tensor, need in zip((x, weight), wanted, strict=True) if need]
    found = iter(torch.autograd.grad(direct(x.float(), weight), inputs, grad, create_graph=True))
    return next(found) if wanted[0] else None, next(found) if wanted[1] else None


def correlate(x: Tensor, weight: Tensor, bias: Tensor | None, tiling: Tiling, direct: Direct) -> Tensor:
    """A convolution within 2e-6 of the largest value, as are its gradients.

    Args:
        x: [B, C, H, W].
        weight: as the layer has it.
        bias: [C_out].
        tiling: of the layer, for this input.
        direct: the same in PyTorch without the bias, for second derivatives.

    Returns:
        [B, C_out, *tiling.size].
    """
    return _Correlation.apply(x, weight, bias, tiling, direct)
