"""Fidelity of a picture to its original, image by image, for values in [-1, 1]."""

import torch
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, [B] in dB: 10·log10(peak² / MSE) with a peak of 2."""
    return 10 * (4 / (prediction - target).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)).log10()


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, [B], with a Gaussian window of σ = 1.5 (Wang et al., 2004)."""
    with torch.autocast(prediction.device.type, enabled=False):  # a variance is a small difference of large numbers
        values = structural_similarity_index_measure(prediction, target, data_range=2.0, reduction="none")
    assert isinstance(values, Tensor)
    return values
