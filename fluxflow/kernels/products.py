"""Batches of float32 matrix products on CPU by products.c; MKL runs many small ones at two thirds of its speed."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from fluxflow.kernels import native


class _Matrices(ctypes.Structure):
    """struct matrices of products.c."""

    _fields_ = [("data", ctypes.c_void_p)] + [(name, ctypes.c_int64) for name in ("next", "part", "row", "column")]


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("products.c")
    for function in () if loaded is None else (loaded.multiply_real, loaded.multiply_complex):
        function.argtypes = [ctypes.POINTER(_Matrices)] * 4 + [ctypes.c_int64] * 4 + [ctypes.c_int]
        function.restype = None
    return loaded


def _matrices(x: Tensor | None) -> _Matrices:
    if x is None:
        return _Matrices()
    return _Matrices(x.data_ptr(), x.stride(0), x.stride(1) if x.dim() == 4 else 0, *x.stride()[-2:])


def multiply(a: Tensor, b: Tensor, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """plus + a·b, without gradients; as torch.baddbmm.

    Args:
        a: real [N, rows, depth] or complex [N, 2, rows, depth], with any strides.
        b: [N, depth, columns] or [N, 2, depth, columns], likewise.
        plus: [N, rows, columns] or [N, 2, rows, columns], whose columns lie side by side; zero if it is None.
        out: like that; may be `plus`.
    """
    y = a.new_empty(*a.shape[:-1], b.shape[-1]) if out is None else out
    of_kind = getattr(library(), "multiply_real" if a.dim() == 3 else "multiply_complex")
    sizes = len(a), a.shape[-2], b.shape[-1], a.shape[-1]
    of_kind(*(ctypes.byref(_matrices(x)) for x in (a, b, plus, y)), *sizes, torch.get_num_threads())
    return y
