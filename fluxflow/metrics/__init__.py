"""How good pictures are, measured, and how fast a run is."""

from fluxflow.metrics.image import psnr, ssim

__all__ = ["psnr", "ssim"]
