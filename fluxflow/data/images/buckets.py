"""Aspect-ratio buckets: the sizes, all of about the same area, to one of which each picture is brought."""

from bisect import bisect
from itertools import pairwise
from math import log

from fluxflow.errors import ConfigError


class Buckets:
    """Sizes whose sides are multiples of `multiple`, around the area of a square.

    For each shorter side up to `image_size` there is the longest other side with which the area does not exceed
    image_size², upright and lying: so an area is at most that, and less than `multiple`/`image_size` of it below. The
    square is always among them.

    Args:
        image_size: side of the square in pixels.
        multiple: what every side is a multiple of: 2^downscales of the model.
        max_aspect: highest ratio of the longer to the shorter side; None or 1: the square alone.

    Attributes:
        sizes: (height, width) of every bucket, from the widest to the highest.

    Raises:
        ConfigError: for a number that cannot work.
    """

    def __init__(self, image_size: int, multiple: int, max_aspect: float | None = None) -> None:
        if image_size < 1 or image_size % multiple:
            below, above = image_size // multiple * multiple, (max(image_size, 0) // multiple + 1) * multiple
            nearest = f"{below} or {above}" if below > 0 else f"{above}"
            raise ConfigError(
                f"data.image_size={image_size} is not a multiple of {multiple} (2^model.downscales): take {nearest}."
            )
        if max_aspect is not None and not (isinstance(max_aspect, int | float) and max_aspect >= 1):
            raise ConfigError(
                f"data.transform.buckets.max_aspect={max_aspect} must be a ratio from 1 (longer to shorter side), "
                "or null."
            )
        lying = []
        for height in range(multiple, image_size + 1, multiple):
            width = image_size * image_size // height // multiple * multiple
            if width <= height * (max_aspect or 1):
                lying.append((height, width))
        self._fill(lying + [(width, height) for height, width in reversed(lying) if width != height])

    @classmethod
    def single(cls, height: int, width: int) -> "Buckets":
        """One bucket for pictures of any shape."""
        buckets = cls.__new__(cls)
        buckets._fill([(height, width)])
        return buckets

    def _fill(self, sizes: list[tuple[int, int]]) -> None:
        self.sizes = sizes
        ratios = [log(width / height) for height, width in self.sizes]
        self._borders = [-(a + b) / 2 for a, b in pairwise(ratios)]  # ascending, as bisect wants

    def of(self, width: int, height: int) -> tuple[int, int]:
        """Height and width of the bucket whose ratio is nearest, on a logarithmic scale, to that of a picture."""
        return self.sizes[bisect(self._borders, -log(width / height))]
