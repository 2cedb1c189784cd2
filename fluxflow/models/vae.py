"""The VAE of stage 1: `FluxCompressor` packs an image into tokens, `FluxExpander` draws the image back.

Convention: images are `[B, 3, H, W]`, float in [-1, 1], with H and W multiples of 2^downscales. Latents form the packet
of `fluxflow.models.packet`.
"""

import math
from collections.abc import Sequence
from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow.kernels.conv import Conv2dSame, Conv2dStride2, ConvTranspose2dStride2
from fluxflow.models.activations import (
    IDENTITY_MIDDLE,
    IDENTITY_POINTS,
    BezierActivation,
    TrainableBezier,
    inverse_silu,
)
from fluxflow.models.attention import attend, split_heads
from fluxflow.models.conditioning import SPADE, ContextAttentionMixer
from fluxflow.models.network import Network
from fluxflow.models.norms import GroupNorm, LayerNorm
from fluxflow.models.packet import add_coordinates, latent_size_of, pack, position_code, to_map, to_tokens
from fluxflow.models.residual import ResidualDecoder, ResidualEncoder
from fluxflow.versions import DEFAULT_VERSION, WIDTHS, Version, check_own, version_of


@torch.no_grad()
def curved(
    layer: nn.Conv2d | nn.ConvTranspose2d | nn.Linear, identity: bool = True, curve: str = "sigmoid"
) -> nn.Sequential:
    """A layer and the Bézier curve that it feeds: t through a sigmoid, control points through SiLU.

    The layer starts so that the picture passes: an orthogonal mix of the channels in the middle of the kernel (a plain
    average where it halves the resolution, nearest neighbours where it doubles it), and noise everywhere.

    Args:
        layer: its output channels are five planes.
        identity: the mix goes through t, and the control points start near those of `IDENTITY_POINTS`; weights sum to
            zero over the input channels, so that the middle of the curve before does not count. Otherwise the mix goes
            through the control points, which start around 0: y = SiLU(x).
        curve: the activation of t, for which the start is not tuned unless it is the sigmoid.
    """
    weight = layer.weight
    planes = weight.transpose(0, 1) if isinstance(layer, nn.ConvTranspose2d) else weight  # [5C, inputs, …]
    phases = math.prod(layer.stride) if isinstance(layer, nn.ConvTranspose2d) else 1
    weight.normal_(std=math.sqrt(phases / planes[0].numel()))
    t, *points = planes.chunk(5)
    mix = nn.init.orthogonal_(torch.empty(t.shape[:2])).reshape(*t.shape[:2], *[1] * (t.dim() - 2))
    middle = tuple(slice((size - 1) // 2, size // 2 + 1) for size in t.shape[2:])
    taps = t[0, 0][middle].numel() / phases
    if not identity:
        for plane in points:
            plane.mul_(0.5)[(..., *middle)] += 2 * mix / taps
        return nn.Sequential(layer, BezierActivation(curve, "silu"))
    t.mul_(0.4)[(..., *middle)] += 1.2 * mix / taps
    planes.sub_(planes.mean(dim=1, keepdim=True))
    for plane, value in zip(points, IDENTITY_POINTS, strict=True):
        plane.mul_(0.5)
        if layer.bias is None:  # the input's own mean stands in for the bias
            plane.add_(inverse_silu(value) / (IDENTITY_MIDDLE * plane[0].numel()))
    if layer.bias is not None:
        layer.bias.copy_(torch.tensor([0.0, *map(inverse_silu, IDENTITY_POINTS)]).repeat_interleave(len(t)))
    return nn.Sequential(layer, BezierActivation(curve, "silu"))


def pointwise(in_channels: int, channels: int, identity: bool = True, curve: str = "sigmoid") -> nn.Sequential:
    """Two 1×1 convolutions, each with its Bézier curve."""
    first, second = nn.Conv2d(in_channels, channels * 5, 1), nn.Conv2d(channels, channels * 5, 1)
    return nn.Sequential(curved(first, curve=curve), curved(second, identity, curve))


class TokenAttention(nn.Module):
    """Pre-norm transformer block over latent tokens, its feed-forward part with a Bézier curve.

    Of PyTorch's attention only the parameters are used, which published checkpoints have: without gradients it would
    write out the weights of all pairs.
    """

    def __init__(self, dim: int, heads: int, ff_mult: int) -> None:
        super().__init__()
        hidden = dim * ff_mult
        self.norm1 = LayerNorm(dim)
        self.attn = nn.MultiheadAttention(dim, heads, batch_first=True)
        self.norm2 = LayerNorm(dim)
        self.ff = nn.Sequential(*curved(nn.Linear(dim, hidden * 5)), nn.Linear(hidden, dim))

    def forward(self, x: Tensor) -> Tensor:
        attn = self.attn
        qkv = F.linear(self.norm1(x), attn.in_proj_weight, attn.in_proj_bias)
        x = x + attn.out_proj(attend(*split_heads(qkv, 3, attn.num_heads)))
        return x + self.ff(self.norm2(x))


class FluxCompressor(Network):
    """Variational encoder: an image becomes a Gaussian over latent maps, and a sample of it the latent packet.

    Args:
        in_channels: channels of the image.
        d_model: channels of the latent, a multiple of `attn_heads`.
        downscales: halvings of the resolution.
        max_hw: latent side that the size token calls 1.
        attn_layers: self-attention layers over the tokens.
        attn_heads: heads of each.
        attn_ff_mult: width of their feed-forward part in units of `d_model`.
        activation_checkpointing: recompute each block in the backward instead of keeping its activations.
        version: a key of `fluxflow.versions.VERSIONS`.
        widths: channels of version 1.0 at each resolution, as of `fluxflow.models.residual.ResidualEncoder`.
        activation, expansion: of the residual blocks of version 1.0.
    """

    def __init__(
        self,
        in_channels: int = 3,
        d_model: int = 128,
        downscales: int = 4,
        max_hw: int = 1024,
        attn_layers: int = 4,
        attn_heads: int = 8,
        attn_ff_mult: int = 2,
        activation_checkpointing: bool = False,
        version: str = DEFAULT_VERSION,
        widths: Sequence[int] = WIDTHS,
        activation: str = "bezier",
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = {
            "in_channels": in_channels,
            "d_model": d_model,
            "downscales": downscales,
            "max_hw": max_hw,
            "attn_layers": attn_layers,
            "attn_heads": attn_heads,
            "attn_ff_mult": attn_ff_mult,
            "version": version,
        }
        lacking = {"attn_layers": attn_layers, "attn_heads": attn_heads, "attn_ff_mult": attn_ff_mult}
        own = {"widths": list(widths), "activation": activation, "expansion": expansion}
        self.config |= check_own(version, lacking, **own)
        self.max_hw, self.activation_checkpointing = max_hw, activation_checkpointing
        self.latents: dict = {}  # of a model in use: latent_mean, latent_std and sample_size, for other pipelines
        kind = version_of(version)
        self.packet_channels = d_model + kind.context_channels
        self.encoder = None
        if kind.residual:
            self.encoder = ResidualEncoder(in_channels, d_model, list(widths), downscales, activation, expansion)
            return
        channels = torch.linspace(in_channels + 2, max(d_model, 8), downscales + 1, device="cpu").round().int().tolist()
        refine = [nn.Conv2d(a, b * 5, 3, padding=1, bias=False) for a, b in pairwise(channels)]
        self.encoder_first_step = nn.ModuleList(
            curved(layer, layer is not refine[0], kind.map_curve) for layer in refine
        )
        with torch.no_grad():  # colours vary about four times less than lightness: start with both alike
            colours = refine[0].weight[:, :in_channels]
            colours.mul_(4).sub_(0.75 * colours.mean(dim=1, keepdim=True))
        self.encoder_z = nn.ModuleList(
            curved(Conv2dStride2(b, b * 5, 8, padding=3), curve=kind.map_curve) for b in channels[1:]
        )
        self.latent_proj = pointwise(channels[-1], d_model, curve=kind.map_curve)
        self.mu_proj = pointwise(d_model, d_model, identity=False)
        self.logvar_proj = pointwise(d_model, d_model, identity=False)
        self.mu_activation = TrainableBezier((d_model,), -2.0, -0.5, 0.5, 2.0, channel_only=True)
        self.logvar_activation = TrainableBezier((d_model,), -6.0, -4.7, -3.3, -2.0, channel_only=True)
        self.token_attn = nn.ModuleList(TokenAttention(d_model, attn_heads, attn_ff_mult) for _ in range(attn_layers))
        self.final_norm = LayerNorm(d_model) if kind.token_norm else None
        self.context_proj = nn.Linear(d_model, kind.context_channels) if kind.context_channels else None

    def posterior(self, image: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Mean and log σ² of the latent map, and the deterministic features that join its tokens; each [B, D, h, w]."""
        if self.encoder is not None:
            mu, logvar = self._run(self.encoder, image).chunk(2, dim=1)
            return mu, logvar.clamp(-12, 4), torch.zeros_like(mu)
        x = add_coordinates(image)  # [B, C + 2, H, W]
        for refine, halve in zip(self.encoder_first_step, self.encoder_z):
            x = self._run(refine, x)
            x = self._run(halve, x)
        features = self.latent_proj(x)  # [B, D, h, w]
        mu = self.mu_activation(self.mu_proj(features))
        logvar = self.logvar_activation(self.logvar_proj(features))
        return mu, logvar, features

    def packet(self, z: Tensor) -> Tensor:
        """A latent sample, features included, as the packet [B, h·w + 1, D + context]."""
        return pack(self._tokens(z), (z.shape[2], z.shape[3]), self.max_hw)

    def _tokens(self, z: Tensor) -> Tensor:
        """The sample with its position code through the self-attention, [B, h·w, D + context]; of 1.0 as it is."""
        if self.encoder is not None:
            return to_tokens(z)
        code = position_code(z.shape[2], z.shape[3], z.shape[1], z.device)
        x = to_tokens(z) + code.to(z.dtype)
        if self.context_proj is not None:
            x = self._bound(x)
            return torch.cat([x, self.context_proj(self._attend(x))], dim=-1)
        return self._bound(self._attend(x))

    def _attend(self, x: Tensor) -> Tensor:
        for block in self.token_attn:
            x = self._run(block, x)
        return x

    def _bound(self, x: Tensor) -> Tensor:
        return x if self.final_norm is None else torch.tanh(self.final_norm(x))

    def forward(
        self, image: Tensor, training: bool = False, eps: Tensor | None = None
    ) -> Tensor | tuple[Tensor, Tensor, Tensor]:
        """Encodes images.

        Args:
            image: [B, C, H, W] in [-1, 1].
            training: also return the posterior.
            eps: standard normal noise of the reparameterisation, [B, D, h, w]; drawn where it is None.

        Returns:
            The packet [B, T + 1, D + context]; with `training` the tuple (packet, μ, log σ²), the latter two
            [B, D, h, w].
        """
        mu, logvar, features = self.posterior(image)
        eps = torch.randn_like(mu) if eps is None else eps
        packed = self.packet(mu + features + eps * (0.5 * logvar).exp())  # Kingma & Welling, 2014, equation 10
        return (packed, mu, logvar) if training else packed

    def _run(self, block: nn.Module, x: Tensor) -> Tensor:
        return (
            checkpoint(block, x, use_reentrant=False) if self.activation_checkpointing and self.training else block(x)
        )


class UpsampleBlock(nn.Module):
    """Doubles the resolution: SPADE, transposed convolution, dilated convolution, a faint nearest residual."""

    def __init__(self, channels: int, version: Version) -> None:
        super().__init__()
        self.always_normed = version.context_channels > 0
        self.spade = SPADE(version.context_channels or channels, channels, scale=version.spade_scale)
        self.conv1 = nn.Sequential(
            *curved(ConvTranspose2dStride2(channels, channels * 5, 16, padding=7), curve=version.map_curve),
            *curved(Conv2dSame(channels, channels * 5, 5, dilation=2), curve=version.map_curve),
        )

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        h = x if context is None and not self.always_normed else self.spade(x, context)
        return self.draw(h, x)

    def draw(self, modulated: Tensor, x: Tensor) -> Tensor:
        return self.conv1(modulated) + 0.1 * F.interpolate(x, scale_factor=2, mode="nearest")


class FluxExpander(Network):
    """Decoder: draws the image of a latent packet.

    Args:
        d_model: channels of the latent.
        upscales: doublings of the resolution.
        max_hw: latent side that the size token calls 1.
        activation_checkpointing: recompute each block in the backward instead of keeping its activations.
        version: a key of `fluxflow.versions.VERSIONS`.
        widths, activation, expansion: of version 1.0, as of `FluxCompressor`.
    """

    def __init__(
        self,
        d_model: int = 128,
        upscales: int = 4,
        max_hw: int = 1024,
        activation_checkpointing: bool = False,
        version: str = DEFAULT_VERSION,
        widths: Sequence[int] = WIDTHS,
        activation: str = "bezier",
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        self.config = {"d_model": d_model, "upscales": upscales, "max_hw": max_hw, "version": version}
        self.config |= check_own(version, {}, widths=list(widths), activation=activation, expansion=expansion)
        self.d_model, self.max_hw, self.activation_checkpointing = d_model, max_hw, activation_checkpointing
        kind = version_of(version)
        self.decoder = None
        if kind.residual:
            self.decoder = ResidualDecoder(d_model, 3, list(widths), upscales, activation, expansion)
            return
        self.upscale = nn.ModuleList(UpsampleBlock(d_model, kind) for _ in range(upscales))
        # Nothing depends on the mixer: published checkpoints carry its weights, and so do ours.
        self.context_mixer = ContextAttentionMixer(d_model).requires_grad_(False) if kind.context_mixer else None
        self.to_rgb_conv = nn.Sequential(
            Conv2dSame(d_model, 96, 3),
            GroupNorm(8, 96),
            nn.SiLU(inplace=True),
            Conv2dSame(96, 48, 3),
            GroupNorm(8, 48),
            nn.SiLU(inplace=True),
            nn.Conv2d(48, 3, 1),
        )
        self.rgb_activation = TrainableBezier((3,), *kind.rgb_points, channel_only=True)

    def forward(self, packed: Tensor, use_context: bool = True, latent_size: tuple[int, int] | None = None) -> Tensor:
        """Decodes packets of one size.

        Args:
            packed: [B, T + 1, D + context].
            use_context: let the latent map, or the packet's context channels, modulate each block through SPADE.
            latent_size: (h, w); read from the size token where it is None, which waits for the device.

        Returns:
            Images [B, 3, H, W], about [-1, 1].

        Raises:
            ValueError: if the packets differ in size, or their tokens are not h·w.
        """
        latent_size = latent_size or latent_size_of(packed, self.max_hw)
        latent = to_map(packed[:, :-1], latent_size)  # [B, D + context, h, w]
        if self.decoder is not None:
            return self.decoder(latent)
        x, context = latent[:, : self.d_model], latent[:, self.d_model :]
        context = context if context.shape[1] else x
        for block in self.upscale:
            x = self._run(block, x, context if use_context else None)
        return self.rgb_activation(self.to_rgb_conv(x))

    @property
    def draws_in_tiles(self) -> bool:
        """Whether `expand_in_tiles` can draw with it."""
        return self.decoder is None

    def _run(self, block: nn.Module, x: Tensor, context: Tensor | None) -> Tensor:
        if self.activation_checkpointing and self.training:
            return checkpoint(block, x, context, use_reentrant=False)
        return block(x, context)
