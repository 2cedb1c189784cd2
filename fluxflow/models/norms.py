"""Normalisation in float32 under autocast: the statistics and the results of maps and tokens, the σ of weights.

Left alone, autocast takes LayerNorm and GroupNorm in bfloat16 on CPUs, and the products of the power iteration on GPUs.
Without autocast everything keeps its type, so that a network of bfloat16 weights stays one.
"""

import torch
from torch import Tensor, nn
from torch.nn.utils.parametrizations import _SpectralNorm
from torch.nn.utils.parametrize import register_parametrization


def autocasts(x: Tensor) -> bool:
    """Whether autocast is on for the device of x."""
    return not x.is_meta and torch.is_autocast_enabled(x.device.type)


def in_float32(x: Tensor) -> Tensor:
    """x, in float32 under autocast."""
    return x.float() if autocasts(x) else x


class LayerNorm(nn.LayerNorm):
    """nn.LayerNorm, in float32 under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(in_float32(input))


class GroupNorm(nn.GroupNorm):
    """nn.GroupNorm, in float32 under autocast."""

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(in_float32(input))


class SpectralNorm(_SpectralNorm):
    """The parametrization of `torch.nn.utils.parametrizations.spectral_norm`, in float32 under autocast."""

    def forward(self, weight: Tensor) -> Tensor:
        if not autocasts(weight):
            return super().forward(weight)
        with torch.autocast(weight.device.type, enabled=False):
            return super().forward(weight)


def spectral_norm(layer: nn.Module) -> nn.Module:
    """Divides the weight of a layer by its largest singular value, which one power iteration a call follows."""
    assert isinstance(layer.weight, Tensor)
    register_parametrization(layer, "weight", SpectralNorm(layer.weight))
    return layer
