"""Noised latents, velocity, and the way from one prediction to another (Salimans & Ho, 2022, appendix D).

All take α and σ that broadcast against the latents, with α² + σ² = 1.
"""

from torch import Tensor


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


def min_snr_weight(alpha: Tensor, sigma: Tensor, gamma: float) -> Tensor:
    """Weight of a velocity loss that bounds the signal-to-noise ratio by γ: min(SNR, γ) / (SNR + 1).

    Hang et al., 2023, equation 8 for velocity prediction.
    """
    snr = (alpha / sigma).square()
    return snr.clamp(max=gamma) / (snr + 1)
