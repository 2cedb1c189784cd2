import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from fluxflow.diffusion.process import cosine, logit_normal, uniform

COUNT = 200_000


def draw(sampler: Callable[..., Tensor], **options: float) -> Tensor:
    return sampler(COUNT, torch.Generator().manual_seed(0), **options)


def normal_cdf(x: Tensor) -> Tensor:
    return 0.5 * (1 + torch.erf(x / math.sqrt(2)))


def cosine_cdf(t: Tensor) -> Tensor:
    """Integral of the density 2 / (π − 2πt + 2πt²) (Esser et al., 2024, equation 21), by the trapezoidal rule."""
    grid = torch.linspace(0, 1, 100_001, dtype=torch.float64)
    density = 2 / (math.pi - 2 * math.pi * grid + 2 * math.pi * grid**2)
    cumulative = torch.cat([torch.zeros(1), torch.cumulative_trapezoid(density, grid)])
    return cumulative[(t * 100_000).round().long()]


@pytest.mark.parametrize(
    ("sampler", "options", "cdf"),
    [
        (uniform, {}, lambda t: t),
        (logit_normal, {}, lambda t: normal_cdf(torch.logit(t))),
        (logit_normal, {"mean": 0.5, "std": 0.7}, lambda t: normal_cdf((torch.logit(t) - 0.5) / 0.7)),
        (cosine, {}, cosine_cdf),
    ],
)
def test_share_of_timesteps_below_each_quantile(sampler, options, cdf):
    """Kolmogorov's distance to the distribution; 1.95 / √n is passed by chance once in a thousand."""
    timesteps = draw(sampler, **options)
    assert timesteps.dtype == torch.int64
    edges = torch.arange(1, 1000, dtype=torch.float64)
    below = torch.bincount(timesteps, minlength=1000).cumsum(0)[:-1] / COUNT
    assert float((below - cdf(edges / 1000)).abs().max()) < 1.95 / COUNT**0.5


def test_uniform_reaches_both_ends():
    timesteps = draw(uniform)
    assert (int(timesteps.min()), int(timesteps.max())) == (0, 999)


@pytest.mark.parametrize("sampler", [uniform, logit_normal, cosine])
def test_the_generator_decides(sampler):
    assert torch.equal(draw(sampler), draw(sampler))
    assert not torch.equal(draw(sampler), sampler(COUNT, torch.Generator().manual_seed(1)))


@pytest.mark.parametrize("std", [0.1, 50.0])
def test_extremes_stay_in_range(std):
    timesteps = logit_normal(10_000, torch.Generator().manual_seed(0), mean=40.0 / std, std=std)
    assert int(timesteps.min()) >= 0
    assert int(timesteps.max()) <= 999
