"""The Kullback-Leibler divergence of the posterior and the schedule of its weight."""

import math

from torch import Tensor


def kl_divergence(mu: Tensor, logvar: Tensor, free_bits: float = 0.0) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)), the mean per element (Kingma & Welling, 2014, appendix B).

    Args:
        mu, logvar: μ and log σ², [B, D, h, w].
        free_bits: nats per element that cost nothing, channel by channel (Kingma et al., 2016, equation 15).
    """
    kl = 0.5 * (mu.square() + logvar.exp() - 1 - logvar)
    if free_bits == 0:
        return kl.mean()
    return kl.mean(dim=(0, 2, 3)).clamp(min=free_bits).mean()


def active_channels(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """How many latent channels carry information: the variance of their μ exceeds `threshold` (Burda et al., 2016)."""
    return (mu.var(dim=(0, 2, 3)) > threshold).sum()


def cosine_warmup(step: int, steps: int) -> float:
    """Rises from 0 at step 0 to 1 at `steps` along half a cosine, and stays there; 1 throughout for `steps` = 0."""
    if step >= steps:
        return 1.0
    return 0.5 - 0.5 * math.cos(math.pi * step / steps)
