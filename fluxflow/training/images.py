"""The way of a picture from the data to the networks."""

from torch import Tensor


def to_signed(image: Tensor) -> Tensor:
    """uint8 images of any memory format as contiguous floats in [-1, 1]."""
    return image.contiguous().float() / 127.5 - 1
