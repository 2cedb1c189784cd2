"""The way of a picture from the data to the networks."""

from torch import Tensor


def to_signed(image: Tensor) -> Tensor:
    """uint8 images as floats in [-1, 1]."""
    return image.float() / 127.5 - 1
