"""The way of a picture from the data to the networks."""

import torch
from torch import Tensor


def to_signed(image: Tensor) -> Tensor:
    """uint8 images of any memory format as floats in [-1, 1]: channels_last on CUDA, elsewhere planar."""
    layout = torch.channels_last if image.is_cuda else torch.contiguous_format
    return image.contiguous(memory_format=layout).float() / 127.5 - 1
