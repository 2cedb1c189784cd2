"""The VAE of model version 1.0: the lowest frequencies of each patch, as in JPEG, and a network that adds to them.

A patch of 2^downscales × 2^downscales pixels becomes one latent token. At the start the latent is a truncated cosine
transform and the decoder its inverse; both are learned from there, and the residual blocks beside them add what a
linear map cannot (shortcuts of this kind: Chen et al., Deep Compression Autoencoder, 2025).
"""

import math
from collections.abc import Sequence
from functools import partial
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.errors import ConfigError
from fluxflow.models.activations import activation_of
from fluxflow.models.conditioning import start_at_zero
from fluxflow.models.norms import GroupNorm

GROUPS = 8
LOG_VARIANCE = -4.0  # of the latent at the start, where a channel's deviation is a quarter to one


def cosine_transform(size: int) -> Tensor:
    """The orthonormal discrete cosine transform of `size` values, a frequency a row (DCT-II; Ahmed et al., 1974)."""
    angle = math.pi / size * torch.arange(size, dtype=torch.float64)[:, None] * (torch.arange(size) + 0.5)
    rows = angle.cos() * math.sqrt(2 / size)
    rows[0] /= math.sqrt(2)
    return rows.float()


def lowest_frequencies(count: int, channels: int, patch: int) -> tuple[Tensor, Tensor]:
    """The cosines that matter most in photographs, over the channels of a patch and its two sides.

    Amplitudes of photographs fall as one over the frequency, and colours vary about four times less than lightness.

    Args:
        count: how many.
        channels: of the image.
        patch: side in pixels.

    Returns:
        Orthonormal cosines [n, channels, patch, patch], and their rough deviation [n] in images of [-1, 1]; n is
        `count`, or as many as there are.
    """
    ranked = sorted(
        (-1 / ((1 + 3 * colour) * math.hypot(1, y, x)), colour, y, x)
        for colour in range(channels)
        for y in range(patch)
        for x in range(patch)
    )[:count]
    colours, sides = cosine_transform(channels), cosine_transform(patch)
    cosines = [torch.einsum("c,y,x->cyx", colours[c], sides[y], sides[x]) for _, c, y, x in ranked]
    return torch.stack(cosines), torch.tensor([-0.6 * patch * rank for rank, *_ in ranked])


class ResidualBlock(nn.Module):
    """x + f(x), where f is normalisation, 3×3 convolution, activation and 3×3 convolution, and 0 at the start.

    Whatever the activation, it has about 18·C² weights: what takes more planes has fewer channels in the middle.

    Args:
        channels: a multiple of `GROUPS`.
        activation: a key of `fluxflow.models.activations.CHOICES`.
        expansion: of the channels in the middle.
    """

    def __init__(self, channels: int, activation: str, expansion: float = 1.0) -> None:
        super().__init__()
        planes, self.curve = activation_of(activation)
        width = max(1, round(expansion * 2 * channels / (planes + 1)))
        self.norm = GroupNorm(GROUPS, channels)
        self.inner = nn.Conv2d(channels, planes * width, 3, padding=1)
        self.outer = start_at_zero(nn.Conv2d(width, channels, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        return x + self.outer(self.curve(self.inner(self.norm(x))))


class Up(nn.Conv2d):
    """Doubles the resolution: nearest neighbours, then a 3×3 convolution."""

    def __init__(self, channels: int, out_channels: int) -> None:
        super().__init__(channels, out_channels, 3, padding=1)

    def forward(self, input: Tensor) -> Tensor:
        return super().forward(F.interpolate(input, scale_factor=2, mode="nearest"))


class ResidualEncoder(nn.Module):
    """Images [B, C, H, W] → mean and log σ² of the latent, [B, 2·latent, h, w].

    Args:
        in_channels: of the image.
        latent: channels of the latent.
        widths: channels of the residual blocks at each resolution, from the finest to that of the latent; the finest
            takes squares of as many pixels as it needs to halve the resolution `downscales` times in all.
        downscales: halvings of the resolution.
        activation, expansion: of the residual blocks.
    """

    def __init__(
        self,
        in_channels: int,
        latent: int,
        widths: Sequence[int],
        downscales: int,
        activation: str,
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        block = partial(ResidualBlock, activation=activation, expansion=expansion)
        square, patch = check_widths(widths, downscales), 2**downscales
        self.linear = start_at_zero(nn.Conv2d(in_channels, 2 * latent, patch, stride=patch))
        layers: list[nn.Module] = [
            nn.PixelUnshuffle(square),
            nn.Conv2d(in_channels * square**2, widths[0], 3, padding=1),
            block(widths[0]),
        ]
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), block(after)]
        layers += [GroupNorm(GROUPS, widths[-1]), start_at_zero(nn.Conv2d(widths[-1], 2 * latent, 3, padding=1))]
        self.network = nn.Sequential(*layers)
        with torch.no_grad():
            cosines, deviation = lowest_frequencies(latent, in_channels, patch)
            self.linear.weight[: len(cosines)] = cosines / deviation[:, None, None, None]
            self.linear.get_parameter("bias")[latent:] = LOG_VARIANCE

    def forward(self, image: Tensor) -> Tensor:
        return self.linear(image) + self.network(image)


class ResidualDecoder(nn.Module):
    """Latents [B, latent, h, w] → images [B, C, H, W].

    Args:
        latent: channels of the latent.
        out_channels: of the image.
        widths, activation, expansion: as of `ResidualEncoder`.
        upscales: doublings of the resolution.
    """

    def __init__(
        self,
        latent: int,
        out_channels: int,
        widths: Sequence[int],
        upscales: int,
        activation: str,
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        block = partial(ResidualBlock, activation=activation, expansion=expansion)
        square, patch = check_widths(widths, upscales), 2**upscales
        self.linear = start_at_zero(nn.ConvTranspose2d(latent, out_channels, patch, stride=patch))
        layers: list[nn.Module] = [nn.Conv2d(latent, widths[-1], 3, padding=1), block(widths[-1])]
        for before, after in pairwise(widths[::-1]):
            layers += [block(before), Up(before, after)]
        layers += [block(widths[0]), GroupNorm(GROUPS, widths[0]), nn.SiLU()]
        layers += [start_at_zero(nn.Conv2d(widths[0], out_channels * square**2, 3, padding=1))]
        self.network = nn.Sequential(*layers, nn.PixelShuffle(square))
        with torch.no_grad():
            cosines, deviation = lowest_frequencies(latent, out_channels, patch)
            self.linear.weight[: len(cosines)] = cosines * deviation[:, None, None, None]

    def forward(self, z: Tensor) -> Tensor:
        return self.linear(z) + self.network(z)


def check_widths(widths: Sequence[int], downscales: int) -> int:
    """Return the side in pixels of the squares that the finest resolution takes.

    Raises:
        ConfigError: more resolutions than there are, or channels that are no multiple of `GROUPS`.
    """
    if not 1 <= len(widths) <= downscales + 1:
        what = f"model.vae_widths={list(widths)} names {len(widths)} resolutions"
        raise ConfigError(f"{what}: one to {downscales + 1} are there.")
    if any(width % GROUPS for width in widths):
        raise ConfigError(f"model.vae_widths={list(widths)} are to be multiples of {GROUPS}.")
    return 2 ** (downscales + 1 - len(widths))
