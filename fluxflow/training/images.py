"""The way of a picture from the data to the networks."""

from torch import Tensor

from fluxflow.kernels.conv import for_convolutions


def to_signed(image: Tensor) -> Tensor:
    """uint8 images [B, 3, H, W] of any memory format as floats in [-1, 1], in that of the device's convolutions."""
    return for_convolutions(image).float() / 127.5 - 1
