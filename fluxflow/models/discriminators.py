"""The patch discriminator of stage 1 (Isola et al., 2017), spectrally normalised (Miyato et al., 2018) in 0.3.0."""

from itertools import pairwise

from torch import Tensor, nn

from fluxflow.models.network import Network
from fluxflow.models.norms import spectral_norm
from fluxflow.versions import DEFAULT_VERSION, version_of

WIDEST = 512  # channels of the light form


def pair(first: nn.Module, second: nn.Module) -> nn.Sequential:
    """Two spectrally normalised layers with a leaky ReLU between them."""
    return nn.Sequential(spectral_norm(first), nn.LeakyReLU(0.2), spectral_norm(second))


def conv_pair(in_channels: int, channels: int) -> nn.Sequential:
    return pair(nn.Conv2d(in_channels, channels, 3, padding=1), nn.Conv2d(channels, channels, 3, padding=1))


class DownBlock(nn.Module):
    """Four convolutions, then the resolution halves by average pooling."""

    def __init__(self, in_channels: int, channels: int) -> None:
        super().__init__()
        self.conv1 = conv_pair(in_channels, channels)
        self.conv2 = conv_pair(channels, channels)
        self.act = nn.LeakyReLU(0.2)
        self.pool = nn.AvgPool2d(2)

    def forward(self, x: Tensor) -> Tensor:
        return self.pool(self.act(self.conv2(self.act(self.conv1(x)))))


def strided(in_channels: int, channels: int) -> list[nn.Module]:
    """A convolution that halves the resolution, and its activation."""
    return [nn.Conv2d(in_channels, channels, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]


class PatchDiscriminator(Network):
    """Judges patches of an image, optionally given a context vector by projection (Miyato & Koyama, 2018).

    Args:
        in_channels: channels of the image.
        base_ch: channels of the first layers; each block doubles them.
        depth: blocks, each halving the resolution.
        ctx_dim: size of the context vector; 0 for none.
        version: a key of `fluxflow.versions.VERSIONS`; it chooses between the spectrally normalised and the light form.
    """

    def __init__(
        self,
        in_channels: int = 3,
        base_ch: int = 64,
        depth: int = 4,
        ctx_dim: int = 0,
        version: str = DEFAULT_VERSION,
    ) -> None:
        super().__init__()
        self.config = {
            "in_channels": in_channels,
            "base_ch": base_ch,
            "depth": depth,
            "ctx_dim": ctx_dim,
            "version": version,
        }
        widths = [base_ch * 2**i for i in range(depth + 1)]
        if version_of(version).light_discriminator:
            self._build_light(in_channels, [base_ch, *(min(width, WIDEST) for width in widths[1:])], ctx_dim)
        else:
            self._build_normalised(in_channels, widths, ctx_dim)

    def _build_light(self, in_channels: int, widths: list[int], ctx_dim: int) -> None:
        layers = [layer for a, b in pairwise([in_channels, *widths]) for layer in strided(a, b)]
        self.backbone = nn.Sequential(*layers)
        self.head = nn.Conv2d(widths[-1], 1, 4, padding=1)
        self.ctx_proj = nn.Linear(ctx_dim, widths[-1]) if ctx_dim else None

    def _build_normalised(self, in_channels: int, widths: list[int], ctx_dim: int) -> None:
        blocks = [DownBlock(a, b) for a, b in pairwise(widths)]
        self.backbone = nn.Sequential(conv_pair(in_channels, widths[0]), nn.LeakyReLU(0.2), *blocks)
        self.head = spectral_norm(nn.Conv2d(widths[-1], 1, 3, padding=1))
        self.ctx_proj = pair(nn.Linear(ctx_dim, widths[-1]), nn.Linear(widths[-1], widths[-1])) if ctx_dim else None

    def forward(self, x: Tensor, ctx_vec: Tensor | None = None) -> Tensor:
        """Judges images.

        Args:
            x: [B, C, H, W] in [-1, 1].
            ctx_vec: [B, ctx_dim] or None.

        Returns:
            Patch logits [B, 1, H / 2^depth, W / 2^depth], high for real; in the light form one row and column fewer
            than H / 2^(depth + 1).
        """
        features = self.backbone(x)  # [B, C', H', W']
        logits = self.head(features)
        if self.ctx_proj is None or ctx_vec is None:
            return logits
        alignment = (features.mean(dim=(2, 3)) * self.ctx_proj(ctx_vec)).sum(dim=1)
        return logits + alignment[:, None, None, None]
