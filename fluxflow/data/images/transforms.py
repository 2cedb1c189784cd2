"""From a record to a training example: decoded, brought to its bucket, perhaps mirrored, with one caption.

Images leave this file as uint8 `[3, H, W]` whose memory holds pixel after pixel (channels last), as they were decoded:
the training modules reorder a whole batch on its device, where they also scale it to [-1, 1].
"""

import random
from collections.abc import Sequence
from typing import TypedDict

import numpy as np
import torch
import torch.nn.functional as F

from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.captions import CaptionRule, FlipGuard
from fluxflow.data.images.decode import decode, probe
from fluxflow.data.sources.records import Record
from fluxflow.errors import ConfigError


class Example(TypedDict):
    """One picture uint8 [3, H, W], its caption and its key."""

    image: torch.Tensor
    caption: str
    key: str


def cover(pixels: np.ndarray, size: tuple[int, int], x: float = 0.5, y: float = 0.5) -> torch.Tensor:
    """Cut out the largest part that has the shape of `size`, and resize it, antialiased.

    Args:
        pixels: uint8 [H, W, 3].
        size: height and width in pixels.
        x, y: where that part lies, in [0, 1] of the room there is (0.5: the centre).

    Returns:
        uint8 [3, height, width], channels last.
    """
    height, width = pixels.shape[:2]
    scale = min(height / size[0], width / size[1])
    rows, columns = (max(1, round(side * scale)) for side in size)
    top, left = round(y * (height - rows)), round(x * (width - columns))
    part = torch.from_numpy(np.ascontiguousarray(pixels[top : top + rows, left : left + columns]))
    part = part.unsqueeze(0).permute(0, 3, 1, 2)  # channels last: PyTorch's fast way for three channels
    if (rows, columns) == size:
        return part[0]
    return F.interpolate(part, size, mode="bicubic", antialias=True)[0]


class Transform:
    """Makes examples of records; every draw comes from the given generator, none from a global state.

    Args:
        buckets: the sizes.
        crop: "random" or "center".
        flip: probability of a horizontal flip, in [0, 1]; 0 for sets of which the mirror image is another thing.
        flip_guard: words of a caption that forbid to flip its picture, see `FlipGuard`.
        caption_rule: which of several captions is taken: "random", "first" or "longest".
        caption_prefix: put before every caption.

    Raises:
        ConfigError: for an option that cannot work.
    """

    def __init__(
        self,
        buckets: Buckets,
        crop: str = "center",
        flip: float = 0.0,
        flip_guard: Sequence[str] | None = "default",
        caption_rule: str = "first",
        caption_prefix: str = "",
    ) -> None:
        if crop not in ("random", "center"):
            raise ConfigError(f"data.transform.crop is {crop!r}: it can be random or center")
        if not 0 <= flip <= 1:
            raise ConfigError(f"data.transform.flip is {flip}: it is a probability, from 0 to 1")
        self.buckets, self.crop, self.flip = buckets, crop, flip
        self.guard = FlipGuard(flip_guard)
        self.caption_rule = CaptionRule(caption_rule, caption_prefix)

    def __repr__(self) -> str:
        """Everything that examples depend on, for checkpoints and caches."""
        sizes = " ".join(f"{height}x{width}" for height, width in self.buckets.sizes)
        return f"{self.crop} crops of {sizes}, flip {self.flip:g} {self.guard}, {self.caption_rule}"

    def for_validation(self) -> "Transform":
        """The same sizes and prefix, with the centre, no flip and the first caption."""
        return Transform(self.buckets, caption_prefix=self.caption_rule.prefix)

    def size(self, record: Record) -> tuple[int, int]:
        """Height and width that a record will have, from the header of its picture. Raises UndecodableImage."""
        return self.buckets.of(*probe(record.image))

    def __call__(self, record: Record, size: tuple[int, int], rng: random.Random) -> Example:
        """The example of a record without a problem, at a size. Raises UndecodableImage."""
        x, y, flip, choice = (rng.random() for _ in range(4))  # always four, so that options do not move one another
        if self.crop == "center":
            x = y = 0.5
        image = cover(decode(record.image, size), size, x, y)
        if flip < self.flip and self.guard.allows(record.captions):
            image = image.flip(-1)
        return {"image": image, "caption": self.caption_rule(record.captions, choice), "key": record.key}
