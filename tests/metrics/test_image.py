import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.metrics.image import psnr, ssim


def test_psnr_of_a_constant_error():
    target = torch.zeros(3, 3, 8, 8)
    errors = torch.tensor([2.0, 0.2, 0.02])[:, None, None, None]
    torch.testing.assert_close(psnr(target + errors, target), torch.tensor([0.0, 20.0, 40.0]), atol=1e-3, rtol=0)


def test_psnr_knows_no_infinity():
    image = torch.rand(1, 3, 8, 8)
    assert psnr(image, image).isfinite().all()


def ssim_oracle(a: Tensor, b: Tensor) -> Tensor:
    """Wang et al., 2004, equation 13, over an 11×11 window at every pixel, mirrored at the edges; values span 2."""
    offsets = torch.arange(-5, 6, dtype=torch.float64)
    gaussian = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(gaussian, gaussian)[None, None] / gaussian.sum() ** 2

    def mean(x: Tensor) -> Tensor:
        return F.conv2d(x.double().flatten(0, 1)[:, None], window).unflatten(0, x.shape[:2])

    a, b = (F.pad(x, (5, 5, 5, 5), mode="reflect") for x in (a, b))
    c1, c2 = (0.01 * 2) ** 2, (0.03 * 2) ** 2
    mu_a, mu_b = mean(a), mean(b)
    covariance, var_a, var_b = mean(a * b) - mu_a * mu_b, mean(a * a) - mu_a**2, mean(b * b) - mu_b**2
    values = (2 * mu_a * mu_b + c1) * (2 * covariance + c2) / ((mu_a**2 + mu_b**2 + c1) * (var_a + var_b + c2))
    return values.flatten(1).mean(dim=1)


@pytest.mark.parametrize("strength", [0.0, 0.1, 1.0])
def test_ssim_is_the_mean_over_gaussian_windows(strength):
    original = torch.rand(2, 3, 24, 32) * 2 - 1
    changed = (original + strength * torch.randn_like(original)).clamp(-1, 1)
    torch.testing.assert_close(ssim(changed, original).double(), ssim_oracle(changed, original), atol=1e-4, rtol=0)
