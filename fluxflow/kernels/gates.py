"""The pillars' input: the gated control points of the block before, normalised and modulated in one pass on CPU."""

import ctypes
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.kernels import native

EPSILON = 1e-5  # of the variance, as F.layer_norm has it
TOKENS = 32  # as in gates.c


class _Sizes(ctypes.Structure):
    """struct sizes of gates.c."""

    _fields_ = [(name, ctypes.c_int64) for name in ("batch", "tokens", "dim")] + [("epsilon", ctypes.c_float)]


@cache
def library() -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    loaded = native.library("gates.c")
    if loaded is not None:
        shape = [ctypes.POINTER(_Sizes), ctypes.c_int]
        loaded.gates_forward.argtypes = [ctypes.c_void_p] * 7 + shape
        loaded.gates_backward.argtypes = [ctypes.c_void_p] * 9 + shape
        loaded.gates_forward.restype = loaded.gates_backward.restype = None
    return loaded


def _call(name: str, *tensors: Tensor) -> None:
    sizes = ctypes.byref(_Sizes(*tensors[0].shape, EPSILON))
    getattr(library(), name)(*(tensor.data_ptr() for tensor in tensors), sizes, torch.get_num_threads())


class _Gates(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate: Tensor, points: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
        gate, points, gamma, beta = (x.contiguous() for x in (gate, points, gamma, beta))
        y, (mean, deviation) = torch.empty_like(points), points.new_empty(2, *points.shape[:3])
        _call("gates_forward", gate, points, gamma, beta, y, mean, deviation)
        ctx.save_for_backward(gate, points, gamma, beta, mean, deviation)
        return y

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        gate, points, gamma, beta, mean, deviation = ctx.saved_tensors
        if torch.is_grad_enabled():  # somebody will differentiate these gradients again
            inputs = gate, points, gamma, beta
            y = torch.addcmul(beta, F.layer_norm(gate * points, gate.shape[-1:], eps=EPSILON), 1 + gamma)
            return torch.autograd.grad(y, inputs, grad, create_graph=True)
        grad_gate, grad_points = torch.zeros_like(gate), torch.empty_like(points)
        batch, tokens, dim = gate.shape
        grad_film = gate.new_zeros(batch, -(-tokens // TOKENS), 2, 4, dim)
        _call(
            "gates_backward", gate, points, gamma, mean, deviation, grad.contiguous(), grad_gate, grad_points, grad_film
        )
        grad_gamma, grad_beta = grad_film.sum(1).permute(1, 2, 0, 3).unsqueeze(3)
        return grad_gate, grad_points, grad_gamma, grad_beta


def takes(*tensors: Tensor) -> bool:
    """Whether compiled C may work on the arguments of `normalised_gates`."""
    float32 = all(x.dtype == torch.float32 for x in tensors) and tensors[0].numel() > 0
    return float32 and native.takes(*tensors) and library() is not None


def normalised_gates(gate: Tensor, points: Tensor, gamma: Tensor, beta: Tensor) -> Tensor:
    """LayerNorm(gate ⊙ points) ⊙ (1 + γ) + β, where the normalisation over the channels has no weights.

    Args:
        gate: of the tokens, [B, T, D].
        points: [4, B, T, D].
        gamma, beta: [4, B, 1, D].

    Returns:
        [4, B, T, D].
    """
    return _Gates.apply(gate, points, gamma, beta)
