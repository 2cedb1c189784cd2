"""The flow transformer of stage 2: predicts the velocity of noised latent tokens from the text and the time."""

import math

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow.errors import ConfigError
from fluxflow.kernels.conv import Conv2dSame, for_convolutions
from fluxflow.models.activations import IDENTITY_MIDDLE, IDENTITY_POINTS, PillarBezier, TrainableBezier, inverse_silu
from fluxflow.models.attention import CrossAttention, SelfAttention
from fluxflow.models.conditioning import ContextAttentionMixer, GatedContextInjection, init_xavier
from fluxflow.models.layouts import PLANAR, Film
from fluxflow.models.network import Network
from fluxflow.models.norms import LayerNorm, autocasts
from fluxflow.models.packet import add_coordinates, latent_size_of, to_map
from fluxflow.models.transformer import TokenFlow
from fluxflow.published.layout import PUBLISHED
from fluxflow.versions import DEFAULT_VERSION, check_own, version_of

LAYOUTS = {"planar": PLANAR, "published": PUBLISHED}
TIMES = 1000  # rows of the time embedding; the time t in [0, 1] is row round(999·t)

GATE = 4.0  # before its sigmoid, of the injection at the start
BRANCH = 0.1  # of the usual size: what attention, text and feed-forward add to the tokens at the start


def pillar(dim: int) -> nn.Sequential:
    """A depth-3 MLP with SiLU that makes one plane of control points."""
    return nn.Sequential(*(nn.Sequential(nn.Linear(dim, dim), nn.SiLU()) for _ in range(3)))


def time_code(dim: int) -> Tensor:
    """Sines and cosines of the row of the time embedding, of unit variance, [TIMES, dim] (Vaswani et al., 2017).

    The embedding starts from it, so that neighbouring times are alike before any has been trained on.
    """
    frequency = torch.exp(torch.arange((dim + 1) // 2) * (-2 * math.log(10000.0) / dim))
    angle = torch.arange(TIMES)[:, None] * frequency
    return math.sqrt(2) * torch.cat([angle.sin(), angle.cos()], dim=1)[:, :dim]


class FlowBlock(nn.Module):
    """Self-attention, text, and a Bézier curve whose control points come from four pillars.

    Args:
        d_model: channels.
        n_head: attention heads.
        pillar_text: the text modulates the input of the pillars and joins their output.
        layout: a key of `LAYOUTS`.
    """

    def __init__(self, d_model: int, n_head: int, pillar_text: bool = False, layout: str = "planar") -> None:
        super().__init__()
        self.pillar_text, self.layout = pillar_text, LAYOUTS[layout]
        self.self_attn = SelfAttention(d_model, n_head)
        self.cross_attn = CrossAttention(d_model)
        self.norm1 = LayerNorm(d_model)
        self.norm2 = LayerNorm(d_model)
        self.norm3 = LayerNorm(d_model)
        self.p0, self.p1, self.p2, self.p3 = (pillar(d_model) for _ in range(4))
        self.ffn = nn.Sequential(nn.Linear(d_model, d_model))
        self.curve = PillarBezier(self.layout.planes)
        if pillar_text:
            self.film_p0, self.film_p1, self.film_p2, self.film_p3 = (nn.Linear(d_model, 2 * d_model) for _ in range(4))
            self.pillar_cross_attn = CrossAttention(d_model)
            self.norm_pillar = LayerNorm(d_model)  # of queries over one key, which drop out
        self.apply(init_xavier)
        if self.layout.passes_on:
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        for mlp, value in zip((self.p0, self.p1, self.p2, self.p3), IDENTITY_POINTS, strict=True):
            *_, last = (layer for layer in mlp.modules() if isinstance(layer, nn.Linear))
            last.weight.mul_(0.2)
            last.bias.fill_(inverse_silu(value))
        parts = [self.self_attn.out_proj, self.cross_attn.out_proj, self.ffn]
        if self.pillar_text:
            parts.append(self.pillar_cross_attn.out_proj)
        for part in parts:
            for branch in part.modules():
                if isinstance(branch, nn.Linear):
                    branch.weight.mul_(BRANCH)

    def forward(
        self,
        x: Tensor,
        text: Tensor,
        rotary: tuple[Tensor, Tensor],
        previous: Tensor | None,
        condition: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """One block.

        Args:
            x: image tokens [B, T, D].
            text: text token [B, 1, D].
            rotary: rotary angles of the tokens.
            previous: the control points of the block before, [4, B, T, D].
            condition: text and time as the pillars take them, [B, 1, D]; used with `pillar_text` alone.

        Returns:
            The tokens, and this block's control points.
        """
        x = x + self.self_attn(self.norm1(x), rotary)
        x = x + self.cross_attn(self.norm2(text))
        gates = self.layout.gates(torch.sigmoid(x), previous, self._film(condition))
        pillars = (self.p0, self.p1, self.p2, self.p3)
        points = torch.stack(
            [mlp(gate) for mlp, gate in zip(pillars, gates.expand(len(pillars), -1, -1, -1), strict=True)]
        )
        if self.pillar_text:
            points = points + self.pillar_cross_attn(text)
        x = x + self.ffn(self.norm3(x))
        return self.curve(x, points), points

    def _film(self, condition: Tensor | None) -> Film | None:
        """γ and β of each pillar, [4, B, 1, D] each, where the pillars see the text."""
        if not self.pillar_text:
            return None
        assert condition is not None
        films = (self.film_p0, self.film_p1, self.film_p2, self.film_p3)
        gamma, beta = torch.stack([film(condition) for film in films]).chunk(2, dim=-1)
        return gamma, beta


class FluxFlowProcessor(Network):
    """Velocity network over latent packets.

    Args:
        d_model: channels, a multiple of `n_head`; a head has a multiple of four.
        vae_dim: channels of the latent.
        embedding_size: size of the text embedding.
        n_head: attention heads.
        n_layers: blocks.
        max_hw: latent side that the size token calls 1.
        ctx_tokens: tokens from which the context is mixed.
        activation_checkpointing: recompute each block in the backward instead of keeping its activations.
        version: a key of `fluxflow.versions.VERSIONS`.
        layout: a key of `LAYOUTS`; "published" for weights of the published package.
        activation: of the feed-forward parts of version 1.0, a key of `fluxflow.models.activations.CHOICES`.
        expansion: of the width of these parts.
    """

    def __init__(
        self,
        d_model: int = 512,
        vae_dim: int = 128,
        embedding_size: int = 1024,
        n_head: int = 8,
        n_layers: int = 10,
        max_hw: int = 1024,
        ctx_tokens: int = 4,
        activation_checkpointing: bool = False,
        version: str = DEFAULT_VERSION,
        layout: str = "planar",
        activation: str = "bezier",
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        if layout not in LAYOUTS:
            raise ConfigError(f"unknown layout {layout!r}: choose one of {', '.join(LAYOUTS)}")
        self.config = {
            "d_model": d_model,
            "vae_dim": vae_dim,
            "embedding_size": embedding_size,
            "n_head": n_head,
            "n_layers": n_layers,
            "max_hw": max_hw,
            "ctx_tokens": ctx_tokens,
            "version": version,
            "layout": layout,
        }
        lacking = {"ctx_tokens": ctx_tokens, "layout": layout}
        self.config |= check_own(version, lacking, activation=activation, expansion=expansion)
        self.max_hw, self.ctx_tokens, self.head_dim = max_hw, ctx_tokens, d_model // n_head
        self.activation_checkpointing, self.layout = activation_checkpointing, LAYOUTS[layout]
        kind = version_of(version)
        channels = vae_dim + kind.context_channels
        self.tokens = None
        if kind.words:
            self.tokens = TokenFlow(
                channels, d_model, embedding_size, n_head, n_layers, activation, expansion, activation_checkpointing
            )
            return
        self.vae_to_dmodel = nn.Linear(channels, d_model)
        self.dmodel_to_vae = nn.Linear(d_model, channels)
        self.ctx_mixer = ContextAttentionMixer(d_model, max(1, d_model // 128))
        self.text_proj = nn.Linear(embedding_size, d_model)
        self.time_embed = nn.Sequential(
            nn.Embedding.from_pretrained(time_code(d_model), freeze=False),
            LayerNorm(d_model),
            TrainableBezier((d_model,)),
            nn.Linear(d_model, embedding_size),
        )
        self.context_injection = GatedContextInjection(d_model, d_model)
        self.transformer_blocks = nn.ModuleList(
            FlowBlock(d_model, n_head, kind.pillar_text, layout) for _ in range(n_layers)
        )
        self.flow_predictor = nn.Sequential(
            Conv2dSame(d_model, d_model, 5),
            TrainableBezier((d_model, 1, 1)),
            Conv2dSame(d_model, d_model, 3),
        )
        self.context_final = nn.Sequential(Conv2dSame(d_model + 2, d_model, 7), TrainableBezier((d_model, 1, 1)))
        self.text_cond_proj = nn.Linear(embedding_size, d_model) if kind.pillar_text else None
        if self.layout.passes_on:
            self._start_as_identity()

    @torch.no_grad()
    def _start_as_identity(self) -> None:
        self.context_injection.start_at(GATE, -IDENTITY_MIDDLE)
        self.vae_to_dmodel.bias.fill_(IDENTITY_MIDDLE)
        self.dmodel_to_vae.weight.normal_(std=0.02)
        self.dmodel_to_vae.bias.copy_(-IDENTITY_MIDDLE * self.dmodel_to_vae.weight.sum(dim=1))

    def forward(
        self, packed: Tensor, text_embeddings: Tensor, timesteps: Tensor, latent_size: tuple[int, int] | None = None
    ) -> Tensor:
        """Predicts the velocity of the image tokens.

        Args:
            packed: noised tokens and the clean size token, [B, T + 1, Dv + context].
            text_embeddings: [B, embedding_size]; of version 1.0 [B, 1 + L, embedding_size], as of `TokenFlow`.
            timesteps: times in [0, 1], [B].
            latent_size: (h, w); read from the size token where it is None, which waits for the device.

        Returns:
            [B, T + 1, Dv + context], the size token as it came.
        """
        latent_size = latent_size or latent_size_of(packed, self.max_hw)
        if self.tokens is not None:
            velocity = self.tokens(packed[:, :-1], text_embeddings, timesteps, latent_size)
            return torch.cat([velocity, packed[:, -1:].to(velocity.dtype)], dim=1)
        code = self.layout.code(*latent_size, self.config["d_model"], packed.device)
        x = self.vae_to_dmodel(packed[:, :-1])
        x = x + (code if autocasts(x) else code.to(x.dtype))  # [B, T, D]
        context, _ = self.ctx_mixer(x[:, : self.ctx_tokens])  # [B, D]
        time = self.time_embed(self.layout.row(timesteps * (TIMES - 1)).long())
        text = self.text_proj(text_embeddings + time)[:, None]  # [B, 1, D]
        condition = None if self.text_cond_proj is None else self.text_cond_proj(text_embeddings + time)[:, None]
        rotary = self.layout.rotary(*latent_size, self.head_dim, x.device)
        points = None
        for block in self.transformer_blocks:
            x = self.context_injection(x, context)
            x, points = self._run(block, x, text, rotary, points, condition)  # [B, T, D]
            context = context + x.mean(dim=1) - self.layout.middle
        velocity = self.dmodel_to_vae(x)  # [B, T, Dv]
        update = self.dmodel_to_vae(self._context_update(x, latent_size))[:, None]  # [B, 1, Dv]
        velocity = torch.cat([velocity[:, : self.ctx_tokens] + update, velocity[:, self.ctx_tokens :]], dim=1)
        return torch.cat([velocity, packed[:, -1:]], dim=1)

    def _context_update(self, x: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """Convolves the token map and pools it, [B, D]."""
        features = self.flow_predictor(for_convolutions(to_map(x, latent_size)))
        return self.context_final(add_coordinates(features)).mean(dim=(2, 3))

    def _run(
        self,
        block: nn.Module,
        x: Tensor,
        text: Tensor,
        rotary: tuple[Tensor, Tensor],
        points: Tensor | None,
        condition: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        if self.activation_checkpointing and self.training:
            return checkpoint(block, x, text, rotary, points, condition, use_reentrant=False)
        return block(x, text, rotary, points, condition)
