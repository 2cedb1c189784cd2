"""The memory format in which the convolutions of a device are fastest."""

import torch
from torch import Tensor


def for_convolutions(maps: Tensor) -> Tensor:
    """Maps [B, C, H, W] in channels_last on CUDA, planar elsewhere; a copy where they lie otherwise."""
    return maps.contiguous(memory_format=torch.channels_last if maps.is_cuda else torch.contiguous_format)
