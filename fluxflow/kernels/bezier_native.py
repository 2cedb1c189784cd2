"""The Bézier activation on CPU by bezier.c, compiled for a dtype and a pair of activations."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from fluxflow.kernels import native

TYPES = {torch.float32: [], torch.bfloat16: ["BFLOAT16"]}  # as bezier.c is told
SMALL = 1 << 15  # values below which threads cost more than they save


@cache
def library(dtype: torch.dtype, t_kind: int, p_kind: int) -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("bezier.c", *TYPES[dtype], f"T_KIND={t_kind}", f"P_KIND={p_kind}")
    if loaded is not None:
        shape = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
        loaded.bezier_forward.argtypes = [ctypes.c_void_p] * 2 + shape
        loaded.bezier_backward.argtypes = [ctypes.c_void_p] * 3 + shape
        loaded.bezier_forward.restype = loaded.bezier_backward.restype = None
    return loaded


def takes(x: Tensor, t_kind: int, p_kind: int) -> bool:
    """Whether x is a tensor that a library can work on; tensors of subclasses may have no memory."""
    return x.dtype in TYPES and type(x) is Tensor and library(x.dtype, t_kind, p_kind) is not None


def _call(name: str, tensors: tuple[Tensor, ...], plane: int, t_kind: int, p_kind: int) -> None:
    x = tensors[0]
    threads = torch.get_num_threads() if x.numel() >= SMALL else 1
    pointers = (tensor.data_ptr() for tensor in tensors)
    outer = x.numel() // (5 * plane)
    getattr(library(x.dtype, t_kind, p_kind), name)(*pointers, outer, plane, threads)


def forward(x: Tensor, y: Tensor, plane: int, t_kind: int, p_kind: int) -> None:
    """Writes the curve of x into y.

    Args:
        x: contiguous groups of five planes [t | p0 | p1 | p2 | p3].
        y: contiguous, a plane for each group.
        plane: values in a plane.
        t_kind: the index of the activation of t in `bezier.ACTIVATIONS`.
        p_kind: that of the control points, likewise.
    """
    _call("bezier_forward", (x, y), plane, t_kind, p_kind)


def backward(x: Tensor, grad: Tensor, grad_x: Tensor, plane: int, t_kind: int, p_kind: int) -> None:
    """Writes the gradient with respect to x into grad_x; `grad` is as y of `forward`, the rest as there."""
    _call("bezier_backward", (x, grad, grad_x), plane, t_kind, p_kind)
