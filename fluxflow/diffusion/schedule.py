"""The noise schedule.

Convention: z_t = α_t·z_0 + σ_t·ε with α_t² = ∏_{s ≤ t} (1 − β_s) and σ_t² = 1 − α_t². The square roots of β rise
linearly from √0.00085 to √0.012 over 1000 steps ("scaled linear", Rombach et al., 2022). A timestep t is an integer in
0…999; a network is given t / 999.
"""

import torch
from torch import Tensor

TIMESTEPS = 1000
BETA_START, BETA_END = 0.00085, 0.012


def noise_schedule() -> tuple[Tensor, Tensor]:
    """α_t and σ_t for every timestep, float32 [1000] each, computed in float64."""
    beta = torch.linspace(BETA_START**0.5, BETA_END**0.5, TIMESTEPS, dtype=torch.float64).square()
    alpha_squared = torch.cumprod(1 - beta, dim=0)
    return alpha_squared.sqrt().float(), (1 - alpha_squared).sqrt().float()


def network_time(timesteps: Tensor) -> Tensor:
    """Timesteps 0…999 as a network is given them: floats in [0, 1]."""
    return timesteps / (TIMESTEPS - 1)
