"""How good pictures are, measured."""

from fluxflow.metrics.image import psnr, ssim

__all__ = ["psnr", "ssim"]
