"""What may happen to a picture: it is checked by decoding it, perhaps rewritten, perhaps hashed."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image

from ..decode import decode

PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
HASH_SIDE = 8


@dataclass(frozen=True)
class Encoding:
    """How pictures are rewritten. One that would not change keeps its bytes, unless a format is asked for.

    Args:
        size: Highest length of the shorter side in pixels, None to keep it.
        crop: Whether to crop the centre to a square.
        format: "jpg", "png" or "webp"; None: jpg, which decodes fastest, for pictures that change, else as they are.
        quality: Quality for jpg and webp, 1 to 100.
    """

    size: int | None = None
    crop: bool = False
    format: str | None = None
    quality: int = 90

    def apply(self, data: bytes) -> tuple[bytes, str, tuple[int, int]]:
        """Check a picture by decoding it, and rewrite it.

        Returns:
            Its bytes, their suffix, and its (width, height).

        Raises:
            UndecodableImage: If it cannot be decoded.
        """
        least = None if self.size is None else (2 * self.size, 2 * self.size)  # the last halving is Lanczos's
        original = image = Image.fromarray(decode(data, least))
        if self.size is not None and min(image.size) > self.size:
            image = image.resize(shrunk(image.size, self.size), Image.Resampling.LANCZOS)
        if self.crop and image.width != image.height:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if self.format is None and image is original:
            return data, suffix(data), image.size
        name, output = self.format or "jpg", io.BytesIO()
        options = {"jpg": {"quality": self.quality}, "png": {}, "webp": {"quality": self.quality, "method": 6}}[name]
        image.save(output, PILLOW_NAMES[name], **options)
        return output.getvalue(), name, image.size


def shrunk(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The size of the same shape whose shorter side has this length."""
    width, height = (max(shorter, round(side * shorter / min(size))) for side in size)
    return width, height


def suffix(data: bytes) -> str:
    """The suffix of a picture's format, by its first bytes."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data.startswith(b"RIFF") else "jpg"


def difference_hash(data: bytes) -> int:
    """64 bits that survive scaling and recompression: whether each cell of an 8 × 9 grey miniature is below its right
    neighbour (dHash, by N. Krawetz).

    Raises:
        UndecodableImage: If the picture cannot be decoded.
    """
    picture = Image.fromarray(decode(data, (4 * HASH_SIDE, 4 * HASH_SIDE))).convert("L")
    pixels = np.asarray(picture.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(pixels[:, :-1] < pixels[:, 1:]).tobytes(), "big")
