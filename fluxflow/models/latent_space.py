"""The trained VAE as stage 2 and sampling see it: images in, normalised latent packets out, and back.

Large images are decoded in tiles, to the same image. Most of the memory of a decoder goes into the five planes at twice
the resolution inside a block, and little into the maps between two blocks. So those maps stay whole, and with them the
statistics of every normalisation: each block alone works tile by tile. Around a tile it takes in as many pixels as its
convolutions reach. What differs from decoding at once is the rounding.
"""

from collections.abc import Iterator, Sequence
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.errors import ConfigError
from fluxflow.models.packet import latent_size_of, to_map
from fluxflow.models.registry import digest
from fluxflow.models.vae import FluxCompressor, FluxExpander, UpsampleBlock

HALO = 2 + 4 + 2  # pixels: two 3×3 of SPADE, half of 16 at stride 2, and 5 dilated by 2 at twice the resolution
LARGEST = 1024 * 1024  # pixels of a picture that is decoded at once by default
SIDE = 512  # pixels, of the tiles of larger ones
SMALLEST = 64  # pixels; in smaller tiles most of the work would be done twice


def check_tile(side: int | None) -> None:
    """Refuse a side of tiles that nobody wants.

    Raises:
        ConfigError: if it is below `SMALLEST`.
    """
    if side is not None and side < SMALLEST:
        raise ConfigError(f"tile is {side}: it must be {SMALLEST} or more, or null.")


def expand_in_tiles(expander: FluxExpander, packed: Tensor, latent_size: tuple[int, int], side: int) -> Tensor:
    """What `expander` draws of packets, one after the other and in tiles; without gradients.

    Args:
        expander: the decoder.
        packed: [B, T + 1, D + context].
        latent_size: (h, w).
        side: of a tile, in pixels of the map that a block makes.

    Returns:
        Images [B, 3, H, W].
    """
    with torch.no_grad():
        return torch.cat([_expand(expander, one, latent_size, side) for one in packed.split(1)])


def _expand(expander: FluxExpander, packed: Tensor, latent_size: tuple[int, int], side: int) -> Tensor:
    latent = to_map(packed[:, :-1], latent_size)
    x, context = latent[:, : expander.d_model], latent[:, expander.d_model :]
    context = context if context.shape[1] else x
    for block in expander.upscale:
        assert isinstance(block, UpsampleBlock)
        x = _double(block, x, context, max(1, side // 2))
    for layer in expander.to_rgb_conv:  # one by one, so that each map goes when the next is there
        x = layer(x)
    return expander.rgb_activation(x)


def _double(block: UpsampleBlock, x: Tensor, context: Tensor, side: int) -> Tensor:
    """`block` on x [1, C, H, W], in tiles of `side` pixels of x."""
    normed = block.spade.bn(x)
    context = F.interpolate(context, size=x.shape[2:], mode="bilinear", align_corners=False)
    result = None
    for (rows, inner_rows, high), (columns, inner_columns, wide) in product(
        _spans(x.shape[2], side), _spans(x.shape[3], side)
    ):
        part = (..., rows, columns)
        drawn = block.draw(block.spade.modulate(normed[part], context[part]), x[part])
        if result is None:
            result = drawn.new_empty(*drawn.shape[:2], 2 * x.shape[2], 2 * x.shape[3])
        result[..., high, wide] = drawn[..., inner_rows, inner_columns]
    assert result is not None
    return result


def _spans(length: int, side: int) -> Iterator[tuple[slice, slice, slice]]:
    """Tiles of one dimension: what a tile takes in, which part of its result counts, and where that goes."""
    for start in range(0, length, side):
        end = min(start + side, length)
        first, last = max(0, start - HALO), min(length, end + HALO)
        yield slice(first, last), slice(2 * (start - first), 2 * (end - first)), slice(2 * start, 2 * end)


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
            tile: side in pixels of the tiles in which a larger picture is decoded, without
                gradients. None: of `SIDE` pixels where there is no gradient and a picture has more than `LARGEST`.

        Returns:
            [B, 3, H, W] in [-1, 1].
        """
        h, w = latent_size = latent_size or latent_size_of(packed, self.max_hw)
        tokens = torch.cat([packed[:, :-1] * self.std + self.mean, packed[:, -1:]], dim=1)
        tokens = tokens.to(self.expander.device, self.expander.dtype)
        if tile is None and h * w * self.downscale**2 > LARGEST and not torch.is_grad_enabled():
            tile = SIDE
        if tile is not None and tile < max(h, w) * self.downscale and self.expander.draws_in_tiles:
            return expand_in_tiles(self.expander, tokens, latent_size, tile).clamp(-1, 1)
        return self.expander(tokens, latent_size=latent_size).clamp(-1, 1)

    def reconstruct(self, image: Tensor, tile: int | None = None) -> Tensor:
        """Images through the posterior's mean and back; `tile` as in `decode`."""
        h, w = self.latent_size(*image.shape[2:])
        eps = image.new_zeros(len(image), self.compressor.config["d_model"], h, w)
        return self.decode(self.encode(image, eps), (h, w), tile)

    def content_hash(self) -> str:
        """Return the sha256 that identifies the VAE: its weights and its latent statistics."""
        return vae_hash(self.compressor, self.expander, self.mean, self.std)


def statistic(values: Tensor | Sequence[float]) -> Tensor:
    """Return a statistic as it is stored and hashed: float32, on the CPU."""
    return torch.as_tensor(values, dtype=torch.float32).detach().cpu()


def vae_hash(compressor: nn.Module, expander: nn.Module, mean: Tensor, std: Tensor) -> str:
    """Return the sha256 over a VAE's weights and its latent statistics."""
    tensors = {"latent_mean": statistic(mean), "latent_std": statistic(std)}
    for prefix, network in (("compressor", compressor), ("expander", expander)):
        tensors |= {f"{prefix}.{key}": tensor for key, tensor in network.state_dict().items()}
    return digest(tensors)
