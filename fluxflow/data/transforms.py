"""From encoded bytes to a square uint8 tensor.

Tensors leave this file as uint8 `[3, H, W]`; the training modules scale them to [-1, 1].
"""

from __future__ import annotations

import io
import random
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps

from ..errors import ConfigError
from .records import Record

MAX_PIXELS = 64_000_000
FORMATS = ("JPEG", "PNG", "WEBP")  # named, since some of Pillow's other formats run programs


class UndecodableImage(Exception):
    """Bytes that are no usable picture; the message is the reason, in a few words."""


def decode(data: bytes, min_side: int | None = None) -> Image.Image:
    """Decode a picture to upright 8-bit RGB, transparency laid over white.

    Args:
        data: JPEG, PNG or WebP file of at most 64 megapixels, which its header is asked before it is decoded.
        min_side: Pixels of the shorter side that will be used: a JPEG of more than twice as many may be decoded at a
            half, quarter or eighth of its size, which is several times faster. None: full size.

    Raises:
        UndecodableImage: For anything else.
    """
    try:
        image = Image.open(io.BytesIO(data), formats=FORMATS)
    except Image.DecompressionBombError:
        raise UndecodableImage("above 64 megapixels") from None
    except Exception as error:  # a decoder fails on a stranger's bytes in more ways than it documents
        raise UndecodableImage("not a JPEG, PNG or WebP picture") from error
    if image.width * image.height > MAX_PIXELS:
        raise UndecodableImage("above 64 megapixels")
    try:
        if min_side is not None:
            image.draft(None, (2 * min_side, 2 * min_side))
        image.load()
        return _to_rgb(ImageOps.exif_transpose(image))
    except Exception as error:  # as above
        raise UndecodableImage("damaged picture") from error


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I"):  # 16 bits of grey; Pillow would clip them, not scale them
        return Image.fromarray((np.asarray(image).clip(0, 65535) // 257).astype(np.uint8)).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, "white")
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")


def resize_shorter(image: Image.Image, size: int) -> Image.Image:
    """Resize, antialiased, so that the shorter side has `size` pixels; unchanged where it already has."""
    shorter = min(image.size)
    if shorter == size:
        return image
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def crop_square(image: Image.Image, size: int, x: float = 0.5, y: float = 0.5) -> Image.Image:
    """Crop a square of `size` pixels, at x and y in [0, 1] of the room there is (0.5: the centre)."""
    left, top = round(x * (image.width - size)), round(y * (image.height - size))
    return image.crop((left, top, left + size, top + size))


def to_tensor(image: Image.Image) -> torch.Tensor:
    """RGB picture → uint8 [3, H, W]."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1).contiguous()


@dataclass(frozen=True)
class SquareTransform:
    """Resize the shorter side, crop a square, perhaps flip it.

    Args:
        size: Side of the square in pixels.
        crop: "random" or "center".
        flip: Probability of a horizontal flip, in [0, 1].
    """

    size: int
    crop: str = "center"
    flip: float = 0.0

    def __post_init__(self) -> None:
        if self.crop not in ("random", "center"):
            raise ConfigError(f"data.crop is {self.crop!r}: it can be random or center")
        if not 0 <= self.flip <= 1:
            raise ConfigError(f"data.flip is {self.flip}: it is a probability, from 0 to 1")

    def __call__(self, data: bytes, rng: random.Random) -> torch.Tensor:
        """Encoded picture → uint8 [3, size, size]; every draw comes from `rng`, none from a global state."""
        image = resize_shorter(decode(data, self.size), self.size)
        x, y = (rng.random(), rng.random()) if self.crop == "random" else (0.5, 0.5)
        image = crop_square(image, self.size, x, y)
        if rng.random() < self.flip:
            image = ImageOps.mirror(image)
        return to_tensor(image)


@dataclass(frozen=True)
class Transform:
    """From a record to an example, of one size for all records.

    Args:
        square: What is done with the picture.
    """

    square: SquareTransform

    def size(self, record: Record) -> tuple[int, int]:
        """(height, width) of the record's example. Raises UndecodableImage."""
        return (self.square.size, self.square.size)

    def __call__(self, record: Record, size: tuple[int, int], rng: random.Random) -> dict[str, Any]:
        """Record → {"image": uint8 [3, H, W], "caption", "key"}. Raises UndecodableImage."""
        return {"image": self.square(record.image, rng), "caption": record.captions[0], "key": record.key}
