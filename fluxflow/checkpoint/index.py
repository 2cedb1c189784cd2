"""What a model is beside its weights: the parts that it has, and the statistics of its latents."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import Tensor

from fluxflow.models.latent_space import statistic


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
        revision: of the folder's files, see fluxflow.revisions.
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
