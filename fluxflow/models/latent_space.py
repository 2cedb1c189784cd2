"""The trained VAE as stage 2 and sampling see it: images in, normalised latent packets out, and back."""

import torch
from torch import Tensor, nn

from fluxflow.errors import ConfigError
from fluxflow.models.packet import latent_size_of
from fluxflow.models.tiles import LARGEST, SIDE, expand_in_tiles
from fluxflow.models.vae import FluxCompressor, FluxExpander


class LatentSpace(nn.Module):
    """A compressor and an expander around tokens of zero mean and unit deviation in every channel.

    Args:
        compressor, expander: the VAE.
        mean, std: per-channel statistics of its tokens over the training data, [D + context]; 0 and 1 where they are
            None.
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        compressor: FluxCompressor,
        expander: FluxExpander,
        mean: Tensor | None = None,
        std: Tensor | None = None,
    ) -> None:
        super().__init__()
        self.compressor, self.expander = compressor, expander
        dim = compressor.packet_channels
        self.register_buffer("mean", torch.zeros(dim) if mean is None else mean)
        self.register_buffer("std", torch.ones(dim) if std is None else std)
        self.downscale = 2 ** compressor.config["downscales"]
        self.max_hw = compressor.max_hw

    def latent_size(self, height: int, width: int) -> tuple[int, int]:
        """The latent grid of an image.

        Raises:
            ConfigError: if the downscaling does not divide a side.
        """
        for name, side in (("height", height), ("width", width)):
            if side < self.downscale or side % self.downscale:
                near = max(1, round(side / self.downscale)) * self.downscale
                raise ConfigError(f"{name} {side} is not a multiple of {self.downscale}; the nearest that is: {near}")
        return height // self.downscale, width // self.downscale

    def encode(self, image: Tensor, eps: Tensor | None = None) -> Tensor:
        """Images [B, 3, H, W] in [-1, 1] to packets [B, T + 1, D]; eps as in `FluxCompressor.forward`."""
        mean, logvar = self.posterior(image)
        return self.sample(mean, logvar, torch.randn_like(mean) if eps is None else eps)

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """The Gaussian that an image [B, 3, H, W] in [-1, 1] becomes: all that its packets depend on besides noise.

        Returns:
            Mean and log σ², [B, D, h, w] each. The features that join the tokens of a sample are part of the mean.
        """
        mu, logvar, features = self.compressor.posterior(image)
        return mu + features, logvar

    def sample(self, mean: Tensor, logvar: Tensor, eps: Tensor) -> Tensor:
        """Packets [B, T + 1, D] of a posterior and standard normal noise, all [B, D, h, w]."""
        packed = self.compressor.packet(mean + eps * (0.5 * logvar).exp())
        return torch.cat([(packed[:, :-1] - self.mean) / self.std, packed[:, -1:]], dim=1)

    def decode(self, packed: Tensor, latent_size: tuple[int, int] | None = None, tile: int | None = None) -> Tensor:
        """Packets to images.

        Args:
            packed: [B, T + 1, D].
            latent_size: (h, w); read from the size token where it is None, which waits for the device.
            tile: side in pixels of the tiles in which a larger picture is decoded (`fluxflow.models.tiles`), without
                gradients. None: of `SIDE` pixels where there is no gradient and a picture has more than `LARGEST`.

        Returns:
            [B, 3, H, W] in [-1, 1].
        """
        h, w = latent_size = latent_size or latent_size_of(packed, self.max_hw)
        tokens = torch.cat([packed[:, :-1] * self.std + self.mean, packed[:, -1:]], dim=1)
        tokens = tokens.to(self.expander.device, self.expander.dtype)
        if tile is None and h * w * self.downscale**2 > LARGEST and not torch.is_grad_enabled():
            tile = SIDE
        if tile is not None and tile < max(h, w) * self.downscale:
            return expand_in_tiles(self.expander, tokens, latent_size, tile).clamp(-1, 1)
        return self.expander(tokens, latent_size=latent_size).clamp(-1, 1)

    def reconstruct(self, image: Tensor, tile: int | None = None) -> Tensor:
        """Images through the posterior's mean and back; `tile` as in `decode`."""
        h, w = self.latent_size(*image.shape[2:])
        eps = image.new_zeros(len(image), self.compressor.config["d_model"], h, w)
        return self.decode(self.encode(image, eps), (h, w), tile)
