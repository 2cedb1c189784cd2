"""Losses as pure functions of tensors."""

from fluxflow.losses.adversarial import hinge_discriminator_loss, hinge_generator_loss, linear_ramp, r1_penalty
from fluxflow.losses.kl import active_channels, cosine_warmup, kl_divergence
from fluxflow.losses.reconstruction import reconstruction_loss

__all__ = [
    "active_channels",
    "cosine_warmup",
    "hinge_discriminator_loss",
    "hinge_generator_loss",
    "kl_divergence",
    "linear_ramp",
    "r1_penalty",
    "reconstruction_loss",
]
