"""Fidelity of an image to its original, image by image, for values in [-1, 1]; and a blur, which lowers it."""

import math

import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import (
    multiscale_structural_similarity_index_measure,
    structural_similarity_index_measure,
)

# Weights of the scales from fine to coarse (Wang et al., 2003).
MS_SSIM_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)
WINDOW = 11  # pixels of the Gaussian window of both similarities


def l1(prediction: Tensor, target: Tensor) -> Tensor:
    """Mean absolute error of each image, [B]."""
    return (prediction - target).abs().mean(dim=(1, 2, 3))


def psnr(prediction: Tensor, target: Tensor) -> Tensor:
    """Peak signal-to-noise ratio of each image, [B] in dB: 10·log10(peak² / MSE) with a peak of 2."""
    return 10 * (4 / (prediction - target).square().mean(dim=(1, 2, 3)).clamp(min=1e-10)).log10()


def ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Structural similarity of each image, [B], with a Gaussian window of σ = 1.5 (Wang et al., 2004)."""
    with torch.autocast(prediction.device.type, enabled=False):  # a variance is a small difference of large numbers
        values = structural_similarity_index_measure(prediction, target, data_range=2.0, reduction="none")
    assert isinstance(values, Tensor)
    return values


def ms_ssim(prediction: Tensor, target: Tensor) -> Tensor:
    """Multi-scale structural similarity of each image, [B] (Wang et al., 2003).

    The five scales need 176 pixels a side. Smaller images have as many of the finest as fit, down to two at 32 pixels,
    with the weights scaled to a sum of 1: figures of different sizes are no match.
    """
    side = min(prediction.shape[2:])
    scales = max(k for k in range(1, 6) if k == 1 or side > (WINDOW - 1) * 2 ** (k - 1))
    weights = tuple(weight / sum(MS_SSIM_WEIGHTS[:scales]) for weight in MS_SSIM_WEIGHTS[:scales])
    with torch.autocast(prediction.device.type, enabled=False):
        values = multiscale_structural_similarity_index_measure(
            prediction, target, data_range=2.0, reduction="none", betas=weights, normalize="relu"
        )
    assert isinstance(values, Tensor)
    return values


def blurred(images: Tensor, sigma: float) -> Tensor:
    """Images [B, C, H, W] behind a Gaussian filter of so many pixels, their borders repeated; 0: as they are."""
    if sigma == 0:
        return images
    far = math.ceil(3 * sigma)
    kernel = torch.exp(-torch.arange(-far, far + 1).square() / (2 * sigma**2))
    kernel = (kernel / kernel.sum()).expand(images.shape[1], 1, 1, -1)
    wide = F.pad(images, (far, far, far, far), mode="replicate")
    return F.conv2d(F.conv2d(wide, kernel, groups=len(kernel)), kernel.mT, groups=len(kernel))
