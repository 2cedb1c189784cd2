"""The flow of model version 1.0: a diffusion transformer whose image tokens attend to every token of the caption."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow.models.activations import activation_of
from fluxflow.models.attention import rotary_2d, rotate, split_heads
from fluxflow.models.conditioning import start_at_zero
from fluxflow.models.norms import in_float32
from fluxflow.models.packet import to_map, to_tokens

BUDGET = 8  # weights of a feed-forward in units of dim²: those of the usual one, four times as wide, with one plane
TIME = 256  # sines and cosines of a time
COSINES = 8  # of each coordinate of a token


class RMSNorm(nn.RMSNorm):
    """nn.RMSNorm, in float32 under autocast (Zhang & Sennrich, 2019)."""

    def forward(self, x: Tensor) -> Tensor:
        return super().forward(in_float32(x))


class FeedForward(nn.Sequential):
    """Linear, activation, linear: of about 8·dim² weights, whatever the activation.

    Args:
        dim: channels.
        activation: a key of `fluxflow.models.activations.CHOICES`; what takes more planes is narrower.
        expansion: of its width.
    """

    def __init__(self, dim: int, activation: str, expansion: float = 1.0) -> None:
        planes, curve = activation_of(activation)
        width = max(1, round(expansion * BUDGET * dim / (planes + 1)))
        super().__init__(nn.Linear(dim, planes * width), curve, nn.Linear(width, dim))


class Attention(nn.Module):
    """Multi-head attention whose queries and keys have unit size (Dehghani et al., 2023).

    Args:
        dim: channels, a multiple of `heads`.
        heads: their number.
    """

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.to_q = nn.Linear(dim, dim)
        self.to_kv = nn.Linear(dim, 2 * dim)
        self.q_norm, self.k_norm = RMSNorm(dim // heads), RMSNorm(dim // heads)
        self.out = nn.Linear(dim, dim)

    def forward(
        self,
        x: Tensor,
        source: Tensor | None = None,
        rotary: tuple[Tensor, Tensor] | None = None,
        mask: Tensor | None = None,
    ) -> Tensor:
        """Attends.

        Args:
            x: what asks, [B, T, D].
            source: what is attended to, [B, S, D]; x itself where it is None.
            rotary: angles of x, where it attends to itself.
            mask: which of the source are there, [B, S].

        Returns:
            [B, T, D].
        """
        (q,) = split_heads(self.to_q(x), 1, self.heads)
        k, v = split_heads(self.to_kv(x if source is None else source), 2, self.heads)
        q, k = self.q_norm(q).to(v.dtype), self.k_norm(k).to(v.dtype)
        if rotary is not None:
            q, k = rotate(q, *rotary), rotate(k, *rotary)
        present = None if mask is None else mask[:, None, None]
        return self.out(F.scaled_dot_product_attention(q, k, v, attn_mask=present).transpose(1, 2).flatten(2))


class Modulation(nn.Module):
    """Shift, scale and gate of each part of a block from the condition; all 0 at the start (adaLN-zero; DiT, 2023).

    Args:
        dim: channels.
        count: how many vectors.
    """

    def __init__(self, dim: int, count: int) -> None:
        super().__init__()
        self.count = count
        self.linear = nn.Linear(dim, count * dim)
        start_at_zero(self.linear)

    def forward(self, condition: Tensor) -> tuple[Tensor, ...]:
        """[B, D] → `count` × [B, 1, D]."""
        return self.linear(F.silu(condition))[:, None].chunk(self.count, dim=-1)


class Block(nn.Module):
    """Attention to neighbours, to all image tokens and to the words, and a feed-forward.

    Time and sentence modulate self-attention and feed-forward. A depthwise 3×3 convolution mixes neighbours before
    (conditional positions; Chu et al., 2021): without it, tokens learn late that neighbours belong together.

    Args:
        dim, heads: of the attention.
        activation, expansion: of the feed-forward.
    """

    def __init__(self, dim: int, heads: int, activation: str, expansion: float = 1.0) -> None:
        super().__init__()
        self.neighbours = start_at_zero(nn.Conv2d(dim, dim, 3, padding=1, groups=dim))
        self.norm_self, self.norm_ff = RMSNorm(dim, elementwise_affine=False), RMSNorm(dim, elementwise_affine=False)
        self.self_attention = Attention(dim, heads)
        self.norm_words, self.word_attention = RMSNorm(dim), Attention(dim, heads)
        self.feed_forward = FeedForward(dim, activation, expansion)
        self.modulation = Modulation(dim, 6)
        start_at_zero(self.word_attention.out)

    def forward(
        self,
        x: Tensor,
        condition: Tensor,
        words: Tensor,
        mask: Tensor | None,
        rotary: tuple[Tensor, Tensor],
        size: tuple[int, int],
    ) -> Tensor:
        """One block.

        Args:
            x: image tokens [B, T, D].
            condition: of time and sentence, [B, D].
            words: [B, L, D].
            mask: which of them are there, [B, L]; None: all.
            rotary: angles of the image tokens.
            size: (h, w), T = h·w.
        """
        x = x + to_tokens(self.neighbours(to_map(x, size)))
        shift, scale, gate, shift_ff, scale_ff, gate_ff = self.modulation(condition)
        x = x + gate * self.self_attention(self.norm_self(x) * (1 + scale) + shift, rotary=rotary)
        x = x + self.word_attention(self.norm_words(x), words, mask=mask)
        return x + gate_ff * self.feed_forward(self.norm_ff(x) * (1 + scale_ff) + shift_ff)


def time_features(times: Tensor, dim: int) -> Tensor:
    """Sines and cosines of times in [0, 1], [B] → [B, dim]."""
    frequencies = torch.exp(torch.linspace(0, 6.9, dim // 2, device=times.device))  # up to 1000
    angles = times.float()[:, None] * frequencies
    return torch.cat([angles.sin(), angles.cos()], dim=1)


def place_code(height: int, width: int, device: torch.device) -> Tensor:
    """Where a token stands in the picture, whatever its size: cosines over its sides, [height·width, 2·COSINES]."""

    def code(length: int) -> Tensor:
        position = (torch.arange(length, device=device) + 0.5) / length
        return torch.cos(math.pi * position[:, None] * torch.arange(1, COSINES + 1, device=device))

    rows, columns = code(height), code(width)
    return torch.cat([rows.repeat_interleave(width, 0), columns.repeat(height, 1)], dim=-1)


class TokenFlow(nn.Module):
    """Velocity of latent tokens (Peebles & Xie, 2023; the attention to words as in PixArt-α, Chen et al., 2024).

    Args:
        channels: of the latent tokens.
        dim: channels inside, a multiple of `heads`.
        text_size: channels of the text.
        heads: of the attention.
        layers: blocks.
        activation, expansion: of the feed-forward parts.
        activation_checkpointing: recompute each block in the backward instead of keeping its activations.
    """

    def __init__(
        self,
        channels: int,
        dim: int,
        text_size: int,
        heads: int,
        layers: int,
        activation: str,
        expansion: float,
        activation_checkpointing: bool,
    ) -> None:
        super().__init__()
        self.head_dim, self.activation_checkpointing = dim // heads, activation_checkpointing
        self.inputs = nn.Linear(channels, dim)
        self.place = nn.Linear(2 * COSINES, dim, bias=False)
        self.time = nn.Sequential(nn.Linear(TIME, dim), nn.SiLU(), nn.Linear(dim, dim))
        self.sentence = nn.Sequential(RMSNorm(text_size), nn.Linear(text_size, dim))
        self.words = nn.Sequential(RMSNorm(text_size), nn.Linear(text_size, dim))
        self.blocks = nn.ModuleList(Block(dim, heads, activation, expansion) for _ in range(layers))
        self.norm = RMSNorm(dim, elementwise_affine=False)
        self.modulation = Modulation(dim, 2)
        self.outputs = start_at_zero(nn.Linear(dim, channels))

    def forward(self, tokens: Tensor, text: Tensor, times: Tensor, size: tuple[int, int]) -> Tensor:
        """Predicts the velocity.

        Args:
            tokens: noised latent tokens, [B, T, channels].
            text: the sentence and then its words, [B, 1 + L, text_size]; rows of zeros are padding.
            times: in [0, 1], [B].
            size: (h, w) of the latent, T = h·w.

        Returns:
            [B, T, channels].
        """
        condition = self.time(time_features(times, TIME).to(text.dtype)) + self.sentence(text[:, 0])
        mask = text.ne(0).any(dim=-1)
        mask[:, 0] = True  # the sentence, so that there is something to attend to
        words = self.words(text)
        rotary = rotary_2d(*size, self.head_dim, tokens.device)
        x = self.inputs(tokens) + self.place(place_code(*size, tokens.device).to(tokens.dtype))
        for block in self.blocks:
            if self.activation_checkpointing and self.training:
                x = checkpoint(block, x, condition, words, mask, rotary, size, use_reentrant=False)
            else:
                x = block(x, condition, words, mask, rotary, size)
        shift, scale = self.modulation(condition)
        return self.outputs(self.norm(x) * (1 + scale) + shift)
