"""What decides what is written: the same source and options give the same bytes."""

from __future__ import annotations

from dataclasses import dataclass

from .encoding import Encoding


@dataclass(frozen=True)
class Options:
    """The options of the command that change its output, under their names.

    Args:
        size: Highest length of the shorter side in pixels; None: as it is.
        crop: Whether to crop the centre to a square.
        format: "jpg", "png" or "webp"; None: jpg for pictures that change.
        quality: For jpg and webp, 1 to 100.
        min_size: Lowest length of the shorter side in pixels.
        drop_duplicates: Highest number of bits (of 64) in which near duplicates differ; None: all stay.
        val_fraction: Share held out by a hash of the key, in [0, 1).
        shard_samples: Samples a shard.
        seed: Of the order.
        caption_key: Column or JSON key of the caption.
        caption_lines: Whether each line of a text file is a caption.
        buckets: Side of the squares whose area the buckets of the report have, in pixels.
        tokenizer: Text model that counts tokens; None: words are counted.
    """

    size: int | None = None
    crop: bool = False
    format: str | None = None
    quality: int = 90
    min_size: int = 1
    drop_duplicates: int | None = None
    val_fraction: float = 0.0
    shard_samples: int = 1000
    seed: int = 0
    caption_key: str | None = None
    caption_lines: bool = False
    buckets: int = 256
    tokenizer: str | None = None

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.size, self.crop, self.format, self.quality)
