import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torchmetrics.functional.image import structural_similarity_index_measure

from fluxflow.metrics.image import MS_SSIM_WEIGHTS, blurred, l1, ms_ssim, psnr, ssim


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


@pytest.mark.parametrize("side", [192, 64, 32])
def test_ms_ssim_is_a_product_over_scales(side):
    """Wang et al., 2003, equation 7, from the SSIM's two terms at each scale; fewer scales for small images."""
    torch.manual_seed(0)
    original = F.avg_pool2d(torch.rand(2, 3, side + 2, side + 2) * 2 - 1, 3, 1)
    changed = (original + 0.2 * torch.randn_like(original)).clamp(-1, 1)
    scales = {192: 5, 64: 3, 32: 2}[side]
    weights = torch.tensor(MS_SSIM_WEIGHTS[:scales]).double()
    weights /= weights.sum()
    product = torch.ones(2).double()
    a, b = original, changed
    for scale, weight in enumerate(weights):
        values, contrast = structural_similarity_index_measure(
            a, b, data_range=2.0, reduction="none", return_contrast_sensitivity=True
        )
        product *= (values if scale == scales - 1 else contrast).double() ** weight
        a, b = F.avg_pool2d(a, 2), F.avg_pool2d(b, 2)
    torch.testing.assert_close(ms_ssim(changed, original).double(), product, atol=1e-5, rtol=1e-4)
    torch.testing.assert_close(ms_ssim(original, original), torch.ones(2))


def test_l1_is_the_mean_absolute_error():
    target = torch.zeros(2, 3, 8, 8)
    torch.testing.assert_close(
        l1(target + torch.tensor([0.5, -1.0])[:, None, None, None], target), torch.tensor([0.5, 1])
    )


def test_a_gaussian_of_zero_and_a_constant_change_nothing():
    image = torch.rand(1, 3, 16, 16)
    assert torch.equal(blurred(image, 0.0), image)
    torch.testing.assert_close(blurred(torch.full((1, 3, 16, 16), 0.3), 1.0), torch.full((1, 3, 16, 16), 0.3))
