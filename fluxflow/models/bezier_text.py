"""A text encoder from scratch: a small transformer with Bézier activations, trained end to end with the flow."""

import hashlib
import json

import torch
from torch import Tensor, nn

from fluxflow.errors import ConfigError
from fluxflow.models.text_encoder import WORDS, TextEncoder, load_tokenizer, locate
from fluxflow.models.transformer import Attention, FeedForward, RMSNorm

FACTORS = 32  # channels of a token's own: most tokens are rare


class TextTransformer(nn.Module):
    """From token numbers to a vector for the sentence and one for each token.

    Args:
        vocabulary: tokens that there are.
        dim: channels.
        layers, heads: of the transformer.
        length: tokens at most.
        activation, expansion: of the feed-forward parts.
    """

    def __init__(
        self, vocabulary: int, dim: int, layers: int, heads: int, length: int, activation: str, expansion: float
    ) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, FACTORS)  # factorised as in ALBERT (Lan et al., 2020)
        self.widen = nn.Linear(FACTORS, dim, bias=False)
        self.position = nn.Parameter(torch.empty(length, dim))
        nn.init.normal_(self.widen.weight, std=0.5 * FACTORS**-0.5)
        nn.init.normal_(self.position, std=0.5)
        self.layers = nn.ModuleList(TextBlock(dim, heads, activation, expansion) for _ in range(layers))
        self.norm = RMSNorm(dim)

    def forward(self, numbers: Tensor) -> Tensor:
        """Embeds.

        Args:
            numbers: one more than those of the tokens, 0 where there is none, [B, L]; of any type.

        Returns:
            [B, 1 + L, dim], zero where there is no token.
        """
        numbers = numbers.long()
        mask = numbers > 0
        x = self.widen(self.embedding((numbers - 1).clamp(min=0))) + self.position[: numbers.shape[1]]
        for layer in self.layers:
            x = layer(x, mask)
        words = self.norm(x) * mask[..., None]
        sentence = words.sum(dim=1, keepdim=True) / mask.sum(dim=1).clamp(min=1)[:, None, None]
        return torch.cat([sentence, words], dim=1)


class TextBlock(nn.Module):
    """Pre-norm attention and feed-forward over tokens."""

    def __init__(self, dim: int, heads: int, activation: str, expansion: float) -> None:
        super().__init__()
        self.norm_attention, self.norm_ff = RMSNorm(dim), RMSNorm(dim)
        self.attention, self.feed_forward = Attention(dim, heads), FeedForward(dim, activation, expansion)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        x = x + self.attention(self.norm_attention(x), mask=mask)
        return x + self.feed_forward(self.norm_ff(x))


class BezierTextEncoder(TextEncoder):
    """Words and sentence from scratch; of a pretrained model it takes the tokenizer alone.

    Args:
        embed_dim: channels of what it gives, a multiple of `heads`.
        tokenizer: folder, pip package or hub name of the tokenizer; None where it is set later.
        vocabulary: tokens that it knows; None: as many as the tokenizer.
        layers, heads: of the transformer.
        length: tokens of a caption that count.
        activation, expansion: of the feed-forward parts.

    Raises:
        ConfigError: `heads` does not divide `embed_dim`.
    """

    def __init__(
        self,
        embed_dim: int,
        tokenizer: str | None = None,
        vocabulary: int | None = None,
        layers: int = 2,
        heads: int = 4,
        length: int = 64,
        activation: str = "bezier",
        expansion: float = 1.0,
    ) -> None:
        super().__init__()
        if embed_dim % heads:
            raise ConfigError(
                f"text.heads={heads} does not divide text.embed_dim={embed_dim}, which is model.text_dim."
            )
        self.tokenizer = None if tokenizer is None else load_tokenizer(locate(tokenizer, download=False))
        vocabulary = vocabulary or (len(self.tokenizer) if self.tokenizer else 30522)
        self.config = {"embed_dim": embed_dim, "vocabulary": vocabulary, "layers": layers, "heads": heads,
                       "length": length, "activation": activation, "expansion": expansion}  # fmt: skip
        self.hidden_size, self.max_length, self.cut_captions = 1, length, set()
        self.output_layer = TextTransformer(vocabulary, embed_dim, layers, heads, length, activation, expansion)

    @property
    def feature_shape(self) -> tuple[int, ...]:
        return (min(WORDS, self.max_length),)

    def content_hash(self) -> str:
        """Return the sha256 over the words of the tokenizer: nothing else is frozen."""
        words = json.dumps(sorted(self.tokenizer.get_vocab().items())) if self.tokenizer else ""
        return hashlib.sha256(words.encode()).hexdigest()

    def caption_features(self, captions: list[str]) -> Tensor:
        """Numbers of the tokens, one more each, 0 where there is none, [B, L]."""
        ids, mask = self.tokens(captions)
        return torch.from_numpy((ids + 1) * mask).to(self.device)

    def encode(self, captions: list[str]) -> Tensor:
        return self.output_layer(self.caption_features(captions))
