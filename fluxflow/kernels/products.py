"""Batches of float32 matrix products on CPU by products.c; MKL runs many small ones at two thirds of its speed."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from fluxflow.kernels import native


class _Matrices(ctypes.Structure):
    """struct matrices of products.c."""

    _fields_ = [("data", ctypes.c_void_p)] + [(name, ctypes.c_int64) for name in ("next", "row", "column")]


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("products.c")
    if loaded is not None:
        loaded.multiply.argtypes = [ctypes.POINTER(_Matrices)] * 4 + [ctypes.c_int64] * 4 + [ctypes.c_int]
        loaded.multiply.restype = None
    return loaded


def multiply(a: Tensor, b: Tensor, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """plus + a·b, without gradients; as torch.baddbmm.

    Args:
        a: [N, rows, depth], with any strides.
        b: [N, depth, columns], likewise.
        plus: [N, rows, columns], whose columns lie side by side; zero if it is None.
        out: contiguous [N, rows, columns]; may be `plus`.
    """
    y = a.new_empty(len(a), a.shape[1], b.shape[2]) if out is None else out
    matrices = (_Matrices(0 if x is None else x.data_ptr(), *(y if x is None else x).stride()) for x in (a, b, plus, y))
    library().multiply(*(ctypes.byref(each) for each in matrices), *y.shape, a.shape[2], torch.get_num_threads())
    return y
