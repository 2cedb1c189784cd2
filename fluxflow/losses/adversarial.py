"""The hinge GAN (Lim & Ye, 2017; Miyato et al., 2018) and the R1 penalty (Mescheder et al., 2018). All take logits."""

import torch
import torch.nn.functional as F
from torch import Tensor


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
