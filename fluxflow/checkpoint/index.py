"""What a model is beside its weights: the parts that it has, and the statistics of its latents."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow.checkpoint.networks import digest


@dataclass(frozen=True)
class ModelIndex:
    """What `model_index.json` says about the folder beside it, or what a published checkpoint is taken for.

    Args:
        folder: the model folder, or the published checkpoint.
        components: names of the parts.
        latent_mean, latent_std: mean and deviation of each channel of the tokens.
        sample_size: height and width of the training images in pixels, where known.
        vae_hash: of the VAE that belongs to it; None where nothing recorded one.
        step: of the training after which it was written, where that is known.
        revision: of the folder's files, see fluxflow.checkpoint.files.
    """

    folder: Path
    components: list[str]
    latent_mean: list[float]
    latent_std: list[float]
    sample_size: tuple[int, int] | None
    vae_hash: str | None
    step: int | None = None
    revision: str | None = None

    def parameters(self) -> dict[str, Any]:
        """Return what a pipeline takes beside the components."""
        return {"latent_mean": self.latent_mean, "latent_std": self.latent_std, "sample_size": self.sample_size}

    def statistics(self) -> tuple[Tensor, Tensor]:
        """Return mean and deviation as tensors, [D + context] each."""
        return statistic(self.latent_mean), statistic(self.latent_std)


def statistic(values: Tensor | Sequence[float]) -> Tensor:
    """Return a statistic as it is stored and hashed: float32, on the CPU."""
    return torch.as_tensor(values, dtype=torch.float32).detach().cpu()


def hash_of(compressor: nn.Module, expander: nn.Module, mean: Tensor, std: Tensor) -> str:
    """Return the sha256 over a VAE's weights and its latent statistics."""
    tensors = {"latent_mean": statistic(mean), "latent_std": statistic(std)}
    for prefix, network in (("compressor", compressor), ("expander", expander)):
        tensors |= {f"{prefix}.{key}": tensor for key, tensor in network.state_dict().items()}
    return digest(tensors)
