"""Multi-head attention over tokens [B, T, D], and rotary positions in two dimensions."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn


def split_heads(x: Tensor, parts: int, heads: int) -> Tensor:
    """Projections side by side, [B, T, parts·D], by part and head: [parts, B, heads, T, D / heads]."""
    return x.unflatten(-1, (parts, heads, -1)).permute(2, 0, 3, 1, 4)


def attend(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """Scaled dot-product attention of all heads, [B, heads, T, D / heads] → [B, T, D] (Vaswani et al., 2017)."""
    return F.scaled_dot_product_attention(q, k, v).transpose(1, 2).flatten(2)


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Turns channel pairs (i, i + dim/2) of [..., T, dim] by angles whose cosines and signed sines are [T, dim]."""
    return torch.addcmul(x * cos.to(x.dtype), x.roll(x.shape[-1] // 2, -1), sin.to(x.dtype))


def rotary_2d(height: int, width: int, dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Cosine and signed sine of the rotary angles of a row-major grid of tokens (Su et al., 2021; axial as in EVA-02).

    The first half of the channel pairs turns with the row, the second with the column.

    Args:
        height, width: the grid.
        dim: channels of one head; even.

    Returns:
        Two tensors [height·width, dim] for `rotate`: halves alike, but for the sign of the sines.
    """
    pairs = dim // 2
    by_row = pairs - pairs // 2
    rows, columns = torch.arange(height, device=device), torch.arange(width, device=device)
    angles = [
        position[:, None] * 100.0 ** (-torch.arange(count, device=device) / max(count, 1))
        for position, count in ((rows, by_row), (columns, pairs - by_row))
    ]
    grid = torch.cat([angles[0].repeat_interleave(width, 0), angles[1].repeat(height, 1)], dim=-1)
    return torch.cat([grid, grid], dim=-1).cos(), torch.cat([-grid, grid], dim=-1).sin()


class SelfAttention(nn.Module):
    """Self-attention with rotary positions.

    Args:
        d_model: channels.
        n_head: heads.
    """

    def __init__(self, d_model: int, n_head: int) -> None:
        super().__init__()
        self.n_head = n_head
        self.q_proj = nn.Linear(d_model, d_model)
        self.kv_proj = nn.Linear(d_model, 2 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, x: Tensor, rotary: tuple[Tensor, Tensor]) -> Tensor:
        (q,) = split_heads(self.q_proj(x), 1, self.n_head)
        k, v = split_heads(self.kv_proj(x), 2, self.n_head)
        return self.out_proj(attend(rotate(q, *rotary), rotate(k, *rotary), v))


class CrossAttention(nn.Module):
    """Attention from image tokens to the text.

    The text is one token, and a softmax over one key is 1: whatever the query, the answer is the token's value. Queries
    and keys therefore drop out, exactly; their weights stay, since published checkpoints have them.

    Args:
        d_model: channels.
    """

    def __init__(self, d_model: int) -> None:
        super().__init__()
        self.q_proj = nn.Linear(d_model, d_model)
        self.kv_proj = nn.Linear(d_model, 2 * d_model)
        self.out_proj = nn.Linear(d_model, d_model)

    def forward(self, text: Tensor) -> Tensor:
        """Maps the text token [B, 1, D] to what every image token receives, [B, 1, D]."""
        _, value = self.kv_proj(text).chunk(2, dim=-1)
        return self.out_proj(value)
