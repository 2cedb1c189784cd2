"""Multi-head self-attention with rotary positions, from the projection to the joined heads."""

import ctypes
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fluxflow.kernels import linear, native

Rotary = tuple[Tensor, Tensor]  # cosine and sine of the angles, [T, D / heads] each


def split_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """Projections side by side, [B, T, parts·D], by part and head: [parts, B, heads, T, D / heads]."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of all heads at once, [B, heads, T, D / heads] → [B, T, D]."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns channel pairs (i, i + dim/2) of [..., T, dim] by angles whose cosines and signed sines are [T, dim]."""
    return torch.addcmul(x * cos.to(x.dtype), x.roll(x.shape[-1] // 2, -1), sin.to(x.dtype))


def _direct(qkv: Tensor, heads: int, rotary: Rotary | None) -> Tensor:
    turning, (v,) = split_heads(qkv, 3, heads).split([2, 1])  # gradients of slices would be added up
    q, k = turning if rotary is None else rotate(turning, *rotary)
    return attend(q, k, v)


class _Layout(ctypes.Structure):
    """struct layout of attention.c."""

    _fields_ = [(name, ctypes.c_void_p) for name in ("cosine", "sine")] + [
        (name, ctypes.c_int64) for name in ("batch", "tokens", "heads", "dim")
    ]


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("attention.c")
    if loaded is not None:
        shape = [ctypes.POINTER(_Layout), ctypes.c_int]
        loaded.attention_forward.argtypes = [ctypes.c_void_p] * 4 + shape
        loaded.attention_backward.argtypes = [ctypes.c_void_p] * 6 + shape
        loaded.attention_forward.restype = loaded.attention_backward.restype = None
        loaded.space.argtypes, loaded.space.restype = shape[:1], ctypes.c_int64
    return loaded


def _call(name: str, tensors: list[Tensor], heads: int, rotary: Rotary | None) -> None:
    loaded, (batch, tokens, width), threads = library(), tensors[0].shape, torch.get_num_threads()
    assert loaded is not None
    angles = (None, None) if rotary is None else tuple(x.data_ptr() for x in rotary)
    layout = ctypes.byref(_Layout(*angles, batch, tokens, heads, width // 3 // heads))
    scratch = tensors[0].new_empty(threads, loaded.space(layout))
    getattr(loaded, name)(*(x.data_ptr() for x in (*tensors, scratch)), layout, threads)


class _Attention(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, qkv: Tensor, heads: int, rotary: Rotary | None) -> Tensor:
        qkv = qkv.contiguous()
        batch, tokens, width = qkv.shape
        y, logs = qkv.new_empty(batch, tokens, width // 3), qkv.new_empty(batch, heads, tokens)
        _call("attention_forward", [qkv, y, logs], heads, rotary)
        ctx.save_for_backward(qkv, y, logs)
        ctx.heads, ctx.rotary = heads, rotary
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        qkv, y, logs = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate these gradients again
            with sdpa_kernel(SDPBackend.MATH):  # the others have no second derivatives
                direct = _direct(qkv, ctx.heads, ctx.rotary)
            return torch.autograd.grad(direct, qkv, grad, create_graph=True)[0], None, None
        grad_qkv = torch.empty_like(qkv)
        _call("attention_backward", [qkv, y, logs, grad.contiguous(), grad_qkv], ctx.heads, ctx.rotary)
        return grad_qkv, None, None


def self_attention(qkv: Tensor, heads: int, rotary: Rotary | None = None) -> Tensor:
    """softmax(q·kᵀ / √dim)·v of each head (Vaswani et al., 2017, equation 1), where q and k are turned first.

    Args:
        qkv: queries, keys and values side by side, [B, T, 3·D].
        heads: that D is divided among.
        rotary: what `rotate` takes, in float32; None where nothing turns.

    Returns:
        The heads side by side, [B, T, D].
    """
    takes = qkv.numel() > 0 and linear.takes(qkv, *(rotary or ())) and library() is not None
    if takes and (rotary is None or _turns_pairs(rotary, qkv.shape[1], qkv.shape[2] // 3 // heads)):
        return _Attention.apply(qkv, heads, rotary)
    return _direct(qkv, heads, rotary)


def _turns_pairs(rotary: Rotary, tokens: int, dim: int) -> bool:
    return dim % 2 == 0 and all(x.shape == (tokens, dim) and x.is_contiguous() for x in rotary)
