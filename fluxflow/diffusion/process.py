"""The diffusion process as pure functions: noise schedule, v-prediction, time sampling, guidance.

Convention: z_t = α_t·z_0 + σ_t·ε with α_t² = ∏_{s ≤ t} (1 − β_s) and σ_t² = 1 − α_t². The square roots of β rise
linearly from √0.00085 to √0.012 over 1000 steps ("scaled linear", Rombach et al., 2022). A timestep t is an integer in
0…999; a network is given t / 999. Predictions follow Salimans & Ho, 2022, appendix D; α and σ broadcast against the
latents.
"""

import math
from collections.abc import Callable

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


def add_noise(z0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z_t = α·z_0 + σ·ε."""
    return alpha * z0 + sigma * noise


def velocity(z0: Tensor, noise: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """v = α·ε − σ·z_0."""
    return alpha * noise - sigma * z0


def z0_from_velocity(zt: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """z_0 = α·z_t − σ·v."""
    return alpha * zt - sigma * v


def noise_from_velocity(zt: Tensor, v: Tensor, alpha: Tensor, sigma: Tensor) -> Tensor:
    """ε = σ·z_t + α·v."""
    return sigma * zt + alpha * v


def velocity_error(
    flow: Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor],
    packed: Tensor,
    noise: Tensor,
    timesteps: Tensor,
    text: Tensor,
    latent_size: tuple[int, int],
    alpha: Tensor,
    sigma: Tensor,
) -> Tensor:
    """‖v̂(z_t, text, t) − v‖² of each image, the mean over its tokens and channels, [B].

    Args:
        flow: predicts the velocity of a packet, given text, time and latent size.
        packed: clean tokens and the size token, which is not noised, [B, T + 1, D].
        noise: ε, [B, T, D].
        timesteps: 0…999, [B].
        text: embeddings, [B, E].
        latent_size: (h, w).
        alpha, sigma: of the timesteps, [B, 1, 1].
    """
    z0, size_token = packed[:, :-1], packed[:, -1:]
    noised = torch.cat([add_noise(z0, noise, alpha, sigma), size_token], dim=1)
    prediction = flow(noised, text, network_time(timesteps), latent_size)[:, :-1]
    return (prediction.float() - velocity(z0, noise, alpha, sigma)).square().mean(dim=(1, 2))


def min_snr_weight(alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Weight of a velocity loss that bounds the signal-to-noise ratio by γ: min(SNR, γ) / (SNR + 1).

    Hang et al., 2023, equation 8 for velocity prediction.
    """
    snr = (alpha / sigma).square()
    return snr.clamp(max=gamma) / (snr + 1)


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


def guide(conditional: Tensor, unconditional: Tensor, scale: float) -> Tensor:
    """unconditional + scale·(conditional − unconditional); a scale of 1 is the plain conditional prediction."""
    return unconditional + scale * (conditional - unconditional)
