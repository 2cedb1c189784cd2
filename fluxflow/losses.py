"""Losses of stage 1 as pure functions: reconstruction, KL, hinge GAN and R1, and the schedules of their weights.

The hinge GAN is that of Lim & Ye, 2017, and Miyato et al., 2018, the R1 penalty that of Mescheder et al., 2018; both
take logits.
"""

import math

import torch
import torch.nn.functional as F
from torch import Tensor


def reconstruction_loss(prediction: Tensor, target: Tensor, mse_weight: float = 0.1) -> Tensor:
    """L1 + `mse_weight`·MSE, each the mean over all elements."""
    return F.l1_loss(prediction, target) + mse_weight * F.mse_loss(prediction, target)


def kl_divergence(mu: Tensor, logvar: Tensor, free_bits: float = 0.0) -> Tensor:
    """KL(N(μ, σ²) ‖ N(0, 1)), the mean per element (Kingma & Welling, 2014, appendix B).

    Args:
        mu, logvar: μ and log σ², [B, D, h, w].
        free_bits: nats per element that cost nothing, channel by channel (Kingma et al., 2016, equation 15).
    """
    kl = kl_elements(mu, logvar)
    if free_bits == 0:
        return kl.mean()
    return kl.mean(dim=(0, 2, 3)).clamp(min=free_bits).mean()


def kl_elements(mu: Tensor, logvar: Tensor) -> Tensor:
    """½·(μ² + σ² − 1 − log σ²), of each element."""
    return 0.5 * (mu.square() + logvar.exp() - 1 - logvar)


def is_active(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """Which channels, [D], carry information: the variance of their μ exceeds `threshold` (Burda et al., 2016)."""
    return mu.var(dim=(0, 2, 3)) > threshold


def active_channels(mu: Tensor, threshold: float = 0.01) -> Tensor:
    """How many do."""
    return is_active(mu, threshold).sum()


def cosine_warmup(step: int, steps: int) -> float:
    """Rises from 0 at step 0 to 1 at `steps` along half a cosine, and stays there; 1 throughout for `steps` = 0."""
    if step >= steps:
        return 1.0
    return 0.5 - 0.5 * math.cos(math.pi * step / steps)


def hinge_discriminator_loss(logits_real: Tensor, logits_fake: Tensor) -> Tensor:
    """½·(E[max(0, 1 − D(real))] + E[max(0, 1 + D(fake))])."""
    return 0.5 * (F.relu(1 - logits_real).mean() + F.relu(1 + logits_fake).mean())


def hinge_generator_loss(logits_fake: Tensor) -> Tensor:
    """−E[D(fake)]."""
    return -logits_fake.mean()


def r1_penalty(logits_real: Tensor, real: Tensor) -> Tensor:
    """½·E‖∇D(real)‖², differentiable; the caller multiplies by γ.

    Args:
        logits_real: logits of `real`, [B, 1, h, w]; each image's are averaged.
        real: images that require a gradient, [B, C, H, W].
    """
    (gradient,) = torch.autograd.grad(logits_real.mean(dim=(1, 2, 3)).sum(), real, create_graph=True)
    return 0.5 * gradient.square().sum(dim=(1, 2, 3)).mean()


def linear_ramp(step: int, start: int, length: int) -> float:
    """0 before `start`, then rises linearly to 1 over `length` steps; at once for `length` = 0."""
    if step < start:
        return 0.0
    return min(1.0, (step - start + 1) / max(length, 1))
