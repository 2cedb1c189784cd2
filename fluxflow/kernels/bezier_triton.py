"""The Bézier activation on CUDA: one pass over memory forward and one backward, computed in float32.

Formulas are those of bezier.py. Element i of the output belongs to group i // plane and lies at i % plane in each of
its five planes, so one kernel serves images, channels_last and tokens: they differ in `plane` alone.
"""

# Triton's language is not Python, and Triton not everywhere.
# pyright: reportArgumentType=false, reportGeneralTypeIssues=false, reportIndexIssue=false, reportMissingImports=false

import torch
import triton
import triton.language as tl
from torch import Tensor

TYPES = (torch.float32, torch.bfloat16, torch.float16)
BLOCK = 1024

# Activations by their place in bezier.ACTIVATIONS.
SIGMOID = tl.constexpr(1)
SILU = tl.constexpr(2)
TANH = tl.constexpr(3)
RELU = tl.constexpr(4)


@triton.jit
def _sigmoid(x):
    return 1 / (1 + tl.exp(-x))


@triton.jit
def _tanh(x):
    square = x * x
    series = -5.70498872745e-3
    series = series * square + 2.06390887954e-2
    series = series * square - 5.37397155531e-2
    series = series * square + 1.33314422036e-1
    series = series * square - 3.33332819422e-1
    return tl.where(square < 0.39, series * square * x + x, 2 * _sigmoid(2 * x) - 1)


@triton.jit
def _value(x, KIND: tl.constexpr):
    value = x
    if KIND == SIGMOID:
        value = _sigmoid(x)
    elif KIND == SILU:
        value = x * _sigmoid(x)
    elif KIND == TANH:
        value = _tanh(x)
    elif KIND == RELU:
        value = tl.where(x < 0, 0.0, x)  # NaN stays NaN
    return value


@triton.jit
def _slope(x, value, KIND: tl.constexpr):
    slope = tl.full(x.shape, 1.0, tl.float32)
    if KIND == SIGMOID:
        slope = value * (1 - value)
    elif KIND == SILU:
        gate = _sigmoid(x)
        slope = gate + value * (1 - gate)
    elif KIND == TANH:
        slope = 1 - value * value
    elif KIND == RELU:
        slope = tl.where(x > 0, 1.0, 0.0)
    return slope


@triton.jit
def _places(total, plane, LONG: tl.constexpr, SIZE: tl.constexpr):
    """For a block of outputs: their indices, which of them exist, and where their t lies in the input."""
    block = tl.program_id(0)
    if LONG:
        block = block.to(tl.int64)
    i = block * SIZE + tl.arange(0, SIZE)
    return i, i < total, i // plane * (5 * plane) + i % plane


@triton.jit
def _forward(x, y, total, plane, T: tl.constexpr, P: tl.constexpr, LONG: tl.constexpr, SIZE: tl.constexpr):
    i, there, at = _places(total, plane, LONG, SIZE)
    t = _value(tl.load(x + at, there).to(tl.float32), T)
    p0 = _value(tl.load(x + at + plane, there).to(tl.float32), P)
    p1 = _value(tl.load(x + at + 2 * plane, there).to(tl.float32), P)
    p2 = _value(tl.load(x + at + 3 * plane, there).to(tl.float32), P)
    p3 = _value(tl.load(x + at + 4 * plane, there).to(tl.float32), P)
    s = 1 - t
    curve = s * s * s * p0 + (3 * s * t * (s * p1 + t * p2) + t * t * t * p3)
    tl.store(y + i, curve.to(y.dtype.element_ty), there)


@triton.jit
def _backward(x, grad, grad_x, total, plane, T: tl.constexpr, P: tl.constexpr, LONG: tl.constexpr, SIZE: tl.constexpr):
    i, there, at = _places(total, plane, LONG, SIZE)
    g = tl.load(grad + i, there).to(tl.float32)
    x_t = tl.load(x + at, there).to(tl.float32)
    x_0 = tl.load(x + at + plane, there).to(tl.float32)
    x_1 = tl.load(x + at + 2 * plane, there).to(tl.float32)
    x_2 = tl.load(x + at + 3 * plane, there).to(tl.float32)
    x_3 = tl.load(x + at + 4 * plane, there).to(tl.float32)
    t = _value(x_t, T)
    p0 = _value(x_0, P)
    p1 = _value(x_1, P)
    p2 = _value(x_2, P)
    p3 = _value(x_3, P)
    s = 1 - t
    slope = 3 * (s * s * (p1 - p0) + (2 * s * t * (p2 - p1) + t * t * (p3 - p2)))
    out = grad_x.dtype.element_ty
    tl.store(grad_x + at, (g * slope * _slope(x_t, t, T)).to(out), there)
    tl.store(grad_x + at + plane, (g * (s * s * s) * _slope(x_0, p0, P)).to(out), there)
    tl.store(grad_x + at + 2 * plane, (g * (3 * s * s * t) * _slope(x_1, p1, P)).to(out), there)
    tl.store(grad_x + at + 3 * plane, (g * (3 * s * t * t) * _slope(x_2, p2, P)).to(out), there)
    tl.store(grad_x + at + 4 * plane, (g * (t * t * t) * _slope(x_3, p3, P)).to(out), there)


def takes(x: Tensor, t_kind: int, p_kind: int) -> bool:
    """Whether x is a tensor that the kernels can work on; tensors of subclasses may have no memory."""
    return x.dtype in TYPES and type(x) is Tensor


def forward(x: Tensor, y: Tensor, plane: int, t_kind: int, p_kind: int) -> None:
    """Writes the curve of x into y; the arguments are those of `bezier_native.forward`."""
    grid, long = (triton.cdiv(y.numel(), BLOCK),), x.numel() >= 2**31
    with torch.cuda.device_of(x):
        _forward[grid](x, y, y.numel(), plane, t_kind, p_kind, long, BLOCK)


def backward(x: Tensor, grad: Tensor, grad_x: Tensor, plane: int, t_kind: int, p_kind: int) -> None:
    """Writes the gradient with respect to x into grad_x; the arguments are those of `bezier_native.backward`."""
    total, long = grad.numel(), x.numel() >= 2**31
    grid = (triton.cdiv(total, BLOCK),)
    with torch.cuda.device_of(x):
        _backward[grid](x, grad, grad_x, total, plane, t_kind, p_kind, long, BLOCK)
