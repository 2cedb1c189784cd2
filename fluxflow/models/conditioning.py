"""Ways to let one signal steer another: FiLM, SPADE, a gated injection, a mixer that pools tokens into a context."""

from typing import TypeVar

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.kernels.conv import Conv2dSame
from fluxflow.models.attention import attend, split_heads
from fluxflow.models.norms import GroupNorm, LayerNorm

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


def start_at_zero(layer: Layer) -> Layer:
    """Have a layer give 0 at the start of training."""
    nn.init.zeros_(layer.weight)
    if layer.bias is not None:
        nn.init.zeros_(layer.bias)
    return layer


def init_xavier(module: nn.Module) -> None:
    """Xavier-uniform weights and zero biases, for use with `Module.apply` (Glorot & Bengio, 2010)."""
    if isinstance(module, (nn.Linear, nn.Conv2d)):
        nn.init.xavier_uniform_(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)


class FiLM(nn.Module):
    """Feature-wise linear modulation, x·(1 + γ) + β with γ, β from a vector (Perez et al., 2018).

    Args:
        text_dim: size of the conditioning vector.
        num_channels: channels of the features.
    """

    def __init__(self, text_dim: int, num_channels: int) -> None:
        super().__init__()
        self.linear = nn.Linear(text_dim, 2 * num_channels)

    def forward(self, x: Tensor, text_emb: Tensor) -> Tensor:
        gamma, beta = self.linear(text_emb)[:, :, None, None].chunk(2, dim=1)
        return x * (1 + gamma) + beta


class SPADE(nn.Module):
    """Spatially-adaptive normalisation, GroupNorm(x)·(1 + γ) + β with γ, β from a context map (Park et al., 2019).

    Args:
        context_nc: channels of the context map.
        num_features: channels of the features.
        hidden: channels between the two.
        scale: multiply by 1 + γ; without it the context can only add.
    """

    def __init__(self, context_nc: int, num_features: int, hidden: int = 128, scale: bool = True) -> None:
        super().__init__()
        groups = max(count for count in range(1, min(32, num_features) + 1) if num_features % count == 0)
        self.bn = GroupNorm(groups, num_features, affine=False)
        shared = Conv2dSame(context_nc, hidden, 3)
        self.mlp_shared = nn.Sequential(shared, nn.ReLU(inplace=True))
        self.mlp_gamma = Conv2dSame(hidden, num_features, 3) if scale else None
        self.mlp_beta = Conv2dSame(hidden, num_features, 3)
        self.apply(init_xavier)
        self._start_as_sum(shared, min(context_nc, num_features, hidden // 2))

    @torch.no_grad()
    def _start_as_sum(self, shared: nn.Conv2d, count: int) -> None:
        """Starts near GroupNorm(x) + context, so that what the normalisation takes away comes back from the first step.

        The context passes the ReLU in two halves, c = max(c, 0) − max(−c, 0), for the first `count` channels.
        """
        for layer in (shared, self.mlp_gamma, self.mlp_beta):
            if layer is not None:
                layer.weight.mul_(0.1)
        for channel in range(count):
            for half, sign in ((channel, 1), (count + channel, -1)):
                shared.weight[half, channel, 1, 1] += sign
                self.mlp_beta.weight[channel, half, 1, 1] += sign

    def forward(self, x: Tensor, context: Tensor | None) -> Tensor:
        """Modulates features [B, C, H, W] by a context [B, C', H', W'] of any size; None only normalises them."""
        if context is None:
            return self.bn(x)
        if context.shape[2:] != x.shape[2:]:
            context = F.interpolate(context, size=x.shape[2:], mode="bilinear", align_corners=False)
        return self.modulate(self.bn(x), context)

    def modulate(self, normed: Tensor, context: Tensor) -> Tensor:
        """Scales and shifts normalised features by a context of their size."""
        hidden = self.mlp_shared(context)
        scaled = normed if self.mlp_gamma is None else normed * (1 + self.mlp_gamma(hidden))
        return scaled + self.mlp_beta(hidden)


class GatedContextInjection(nn.Module):
    """Scales and shifts tokens by a context vector, x·sigmoid(gate(c)) + bias(c).

    Args:
        context_dim: size of the context vector.
        target_dim: channels of the tokens.
    """

    def __init__(self, context_dim: int, target_dim: int) -> None:
        super().__init__()
        self.gate = nn.Sequential(nn.Linear(context_dim, target_dim), nn.Sigmoid())
        self.bias = nn.Linear(context_dim, target_dim)

    @torch.no_grad()
    def start_at(self, gate: float, bias: float) -> None:
        """Makes the injection a constant at first, x·sigmoid(gate) + bias, whatever the context."""
        linears = [layer for layer in self.modules() if isinstance(layer, nn.Linear)]
        for layer, value in zip(linears, (gate, bias), strict=True):
            layer.weight.zero_()
            layer.bias.fill_(value)

    def forward(self, x: Tensor, context: Tensor) -> Tensor:
        return torch.addcmul(self.bias(context)[:, None], x, self.gate(context)[:, None])


class ContextAttentionMixer(nn.Module):
    """One self-attention over a learned class token and a few context tokens.

    Args:
        d_model: channels.
        n_head: attention heads; divides `d_model`.
    """

    def __init__(self, d_model: int, n_head: int = 4) -> None:
        super().__init__()
        self.n_head = n_head
        self.cls = nn.Parameter(torch.zeros(1, 1, d_model))
        self.q_proj = nn.Linear(d_model, d_model)
        self.k_proj = nn.Linear(d_model, d_model)
        self.v_proj = nn.Linear(d_model, d_model)
        self.out_proj = nn.Linear(d_model, d_model)
        self.norm_in = LayerNorm(d_model)
        self.norm_out = LayerNorm(d_model)
        self.apply(init_xavier)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Mixes tokens [B, K, D] and returns the pooled class token [B, D] and the mixed tokens [B, K, D]."""
        x = torch.cat([self.cls.expand(len(x), -1, -1), self.norm_in(x)], dim=1)
        q, k, v = (split_heads(project(x), 1, self.n_head)[0] for project in (self.q_proj, self.k_proj, self.v_proj))
        x = attend(q, k, v)
        x = self.norm_out(self.out_proj(x))
        return x[:, 0], x[:, 1:]
