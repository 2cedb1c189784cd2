"""Batches of float32 matrix products on CPU by products.c; MKL runs many small ones at two thirds of its speed."""

import ctypes
from functools import cache

import torch
from torch import Tensor

from fluxflow.kernels import native

_Matrices = ctypes.c_int64 * 20  # four of struct matrices of products.h


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("products.c")
    for function in () if loaded is None else (loaded.multiply_real, loaded.multiply_complex):
        function.argtypes = [ctypes.POINTER(ctypes.c_int64)] + [ctypes.c_int64] * 4 + [ctypes.c_int]
        function.restype = None
    return loaded


def _matrices(x: Tensor | None) -> tuple[int, ...]:
    """Address and strides, as struct matrices has them."""
    if x is None:
        return (0,) * 5
    next_one, *part, row, column = x.stride()
    return x.data_ptr(), next_one, *(part or (0,)), row, column


def multiply(a: Tensor, b: Tensor, plus: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """plus + a·b, without gradients; as torch.baddbmm.

    Args:
        a: real [N, rows, depth] or complex [N, 2, rows, depth], with any strides.
        b: [N, depth, columns] or [N, 2, depth, columns], likewise.
        plus: [N, rows, columns] or [N, 2, rows, columns], whose columns lie side by side; zero if it is None.
        out: like that; may be `plus`.
    """
    y = a.new_empty(*a.shape[:-1], b.shape[-1]) if out is None else out
    loaded, (count, *_, rows, depth) = library(), a.shape
    assert loaded is not None
    of_kind = loaded.multiply_real if a.dim() == 3 else loaded.multiply_complex
    places = _Matrices(*_matrices(a), *_matrices(b), *_matrices(plus), *_matrices(y))
    of_kind(places, count, rows, b.shape[-1], depth, torch.get_num_threads())
    return y
