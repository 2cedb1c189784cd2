"""Floating-point operations of networks and training steps, counted from the shapes.

What counts is the work that the networks ask of matrix units: convolutions, linear layers and attention, 2 operations
for each multiplication with its addition. The backward of a product costs its forward twice, once for the gradient of
the weights and once for that of its input, where that is needed. What is computed again to save memory does not count.

The arguments of a network are its `config`.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from fluxflow.versions import Version, version_of

Config = dict[str, Any]


@dataclass(frozen=True)
class Work:
    """Operations of one forward.

    Attributes:
        forward: of all products.
        first: of those among them whose input has no gradient, as the image has none.
    """

    forward: int = 0
    first: int = 0

    @property
    def training(self) -> int:
        """Forward and backward."""
        return 3 * self.forward - self.first

    def __add__(self, other: "Work") -> "Work":
        return Work(self.forward + other.forward, self.first + other.first)


def product(count: int, inputs: int, outputs: int, taps: int = 1) -> int:
    """A linear layer on `count` vectors, or a convolution with `taps` in its kernel at `count` places.

    The places of a strided convolution are its outputs, those of a transposed one its inputs.
    """
    return 2 * count * inputs * outputs * taps


def attention(batch: int, queries: int, dim: int) -> int:
    """Self-attention between projected tokens: the scores and the weighted sum."""
    return 2 * product(batch * queries, queries, dim)


def encoder_widths(config: Config) -> list[int]:
    """The channels of the compressor's maps, those of the image and its coordinates first."""
    first, last, count = config["in_channels"] + 2, max(config["d_model"], 8), config["downscales"]
    return [round(first + (last - first) * index / count) for index in range(count + 1)]


def posterior(config: Config, batch: int, height: int, width: int) -> Work:
    """`FluxCompressor.posterior` of images."""
    places, total, first, dim = batch * height * width, 0, 0, config["d_model"]
    for level, (a, b) in enumerate(pairwise(widths := encoder_widths(config))):
        refine = product(places, a, 5 * b, taps=9)
        first = refine if level == 0 else first
        places //= 4
        total += refine + product(places, b, 5 * b, taps=64)
    total += product(places, widths[-1], 5 * dim) + 5 * product(places, dim, 5 * dim)
    return Work(total, first)


def packet(config: Config, batch: int, tokens: int) -> Work:
    """`FluxCompressor.packet` of a latent sample."""
    dim, hidden, context = config["d_model"], config["d_model"] * config["attn_ff_mult"], _kind(config).context_channels
    block = product(batch * tokens, dim, 4 * dim) + attention(batch, tokens, dim)
    block += product(batch * tokens, dim, 5 * hidden) + product(batch * tokens, hidden, dim)
    return Work(config["attn_layers"] * block + product(batch * tokens, dim, context))


def expander(config: Config, batch: int, tokens: int) -> Work:
    """`FluxExpander` on packets."""
    dim, kind, places, total = config["d_model"], _kind(config), batch * tokens, 0
    for _ in range(config["upscales"]):
        total += product(places, kind.context_channels or dim, 128, taps=9)
        total += (2 if kind.spade_scale else 1) * product(places, 128, dim, taps=9)
        total += product(places, dim, 5 * dim, taps=256)
        places *= 4
        total += product(places, dim, 5 * dim, taps=25)
    return Work(total + product(places, dim, 96, taps=9) + product(places, 96, 48, taps=9) + product(places, 48, 3))


@dataclass(frozen=True)
class Verdict:
    """The discriminator on images, and its share that judges the context vector alone."""

    images: Work
    context: Work

    @property
    def both(self) -> Work:
        return self.images + self.context


def discriminator(config: Config, batch: int, height: int, width: int) -> Verdict:
    """`PatchDiscriminator` on images, with their context where it takes one."""
    base, depth, channels, context = (config[name] for name in ("base_ch", "depth", "in_channels", "ctx_dim"))
    if _kind(config).light_discriminator:
        widths = [channels, base, *(min(base * 2**level, 512) for level in range(1, depth + 1))]
        total = first = 0
        for a, b in pairwise(widths):
            height, width = height // 2, width // 2
            total += product(batch * height * width, a, b, taps=16)
            first = first or total
        total += product(batch * (height - 1) * (width - 1), widths[-1], 1, taps=16)
        told = product(batch, context, widths[-1])
        return Verdict(Work(total, first), Work(told, told))
    widths = [base * 2**level for level in range(depth + 1)]
    first = product(batch * height * width, channels, base, taps=9)
    total = first + product(batch * height * width, base, base, taps=9)
    for a, b in pairwise(widths):
        total += product(batch * height * width, a, b, taps=9) + 3 * product(batch * height * width, b, b, taps=9)
        height, width = height // 2, width // 2
    total += product(batch * height * width, widths[-1], 1, taps=9)
    told = product(batch, context, widths[-1])
    return Verdict(Work(total, first), Work(told + product(batch, widths[-1], widths[-1]) if context else 0, told))


def flow(config: Config, batch: int, tokens: int) -> Work:
    """`FluxFlowProcessor` on packets; the noised tokens need no gradient, the text embeddings do."""
    dim, text, kind = config["d_model"], config["embedding_size"], _kind(config)
    channels, places, mixed = config["vae_dim"] + kind.context_channels, batch * tokens, config["ctx_tokens"] + 1
    mixed = min(mixed, tokens + 1)
    first = product(places, channels, dim)
    total = first + product(places + batch, dim, channels)
    total += product(batch * mixed, dim, 4 * dim) + attention(batch, mixed, dim)
    total += (3 if kind.pillar_text else 2) * product(batch, text, dim)
    block = product(batch, dim, (2 + 2) * dim)  # the injected context; value and output of the one token of text
    block += product(places, dim, (4 + 4 * 3 + 1) * dim) + attention(batch, tokens, dim)
    if kind.pillar_text:
        block += product(batch, dim, (4 * 2 + 2) * dim)
    total += config["n_layers"] * block
    total += product(places, dim, dim, taps=25 + 9) + product(places, dim + 2, dim, taps=49)
    return Work(total, first)


def text_projection(hidden: int, embedding: int, batch: int) -> Work:
    """The trained end of `BertTextEncoder`, on features that have no gradient; its language model is left out."""
    first = product(batch, hidden, 5 * 512)
    return Work(first + product(batch, 512, 5 * embedding), first)


def gan_step(config: Config, batch: int, height: int, width: int, r1: bool) -> int:
    """What a step with the discriminator adds: its own on real and drawn images, and its verdict for the generator.

    With R1 its verdict on real images once more, their gradient, and the way back through that.
    """
    verdict, pair = (discriminator(config, count, height, width) for count in (batch, 2 * batch))
    total = pair.both.training + 2 * verdict.images.forward + verdict.context.forward
    if r1:
        total += 4 * verdict.images.forward + verdict.context.training
    return total


def _kind(config: Config) -> Version:
    return version_of(config["version"])
