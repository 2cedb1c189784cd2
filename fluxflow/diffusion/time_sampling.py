"""Which timesteps a training batch sees. Each function draws [count] integers in 0…999."""

import math

import torch
from torch import Tensor

from fluxflow.diffusion.schedule import TIMESTEPS


def uniform(count: int, generator: torch.Generator) -> Tensor:
    """Every timestep alike."""
    return _to_timesteps(_unit(count, generator))


def logit_normal(count: int, generator: torch.Generator, mean: float = 0.0, std: float = 1.0) -> Tensor:
    """t / 1000 = sigmoid(mean + std·n), n standard normal: the middle more often (Esser et al., 2024, section 3.1)."""
    normal = torch.randn(count, generator=generator, device=generator.device)
    return _to_timesteps(torch.sigmoid(mean + std * normal))


def cosine(count: int, generator: torch.Generator) -> Tensor:
    """t / 1000 = 1 − 1 / (tan(πu/2) + 1), u uniform: the log-SNR of a cosine schedule (Esser et al., 2024)."""
    return _to_timesteps(1 - 1 / (torch.tan(_unit(count, generator) * math.pi / 2) + 1))


def _unit(count: int, generator: torch.Generator) -> Tensor:
    return torch.rand(count, generator=generator, device=generator.device)


def _to_timesteps(unit: Tensor) -> Tensor:
    return (unit * TIMESTEPS).long().clamp(0, TIMESTEPS - 1)
