import pytest
import torch
from torch.distributions import Normal
from torch.distributions import kl_divergence as exact

from fluxflow.losses import active_channels, cosine_warmup, kl_divergence


def posterior() -> tuple[torch.Tensor, torch.Tensor]:
    return torch.randn(3, 4, 5, 6, dtype=torch.float64), 2 * torch.randn(3, 4, 5, 6, dtype=torch.float64)


def test_divergence_of_two_normals():
    mu, logvar = posterior()
    expected = exact(Normal(mu, logvar.mul(0.5).exp()), Normal(0.0, 1.0)).mean()
    torch.testing.assert_close(kl_divergence(mu, logvar), expected)


def test_standard_normal_costs_nothing():
    assert kl_divergence(torch.zeros(2, 4, 3, 3), torch.zeros(2, 4, 3, 3)) == 0


def test_weight_does_not_depend_on_the_resolution():
    mu, logvar = posterior()
    torch.testing.assert_close(
        kl_divergence(mu.repeat(1, 1, 2, 3), logvar.repeat(1, 1, 2, 3)), kl_divergence(mu, logvar)
    )


def test_free_bits_floor_each_channel():
    mu, logvar = posterior()
    mu[:, 0], logvar[:, 0] = 0, 0
    channels = exact(Normal(mu, logvar.mul(0.5).exp()), Normal(0.0, 1.0)).mean(dim=(0, 2, 3))
    assert float(channels[0]) < 0.25 < float(channels[1:].min())
    torch.testing.assert_close(kl_divergence(mu, logvar, free_bits=0.25), (channels[1:].sum() + 0.25) / 4)


def test_free_bits_leave_a_cheap_channel_without_gradient():
    mu = torch.full((2, 2, 3, 3), 0.1)
    mu[:, 1] = 2
    mu.requires_grad_()
    kl_divergence(mu, torch.zeros(2, 2, 3, 3), free_bits=0.25).backward()
    assert (mu.grad[:, 0] == 0).all()
    torch.testing.assert_close(mu.grad[:, 1], torch.full((2, 3, 3), 2 / 36))


def test_active_channels_are_those_whose_mean_varies():
    mu = torch.randn(8, 5, 4, 4) * torch.tensor([1.0, 0.0, 0.05, 0.2, 0.0])[:, None, None]
    assert active_channels(mu + 3) == 2
    assert active_channels(mu, threshold=1e-4) == 3


@pytest.mark.parametrize(("step", "weight"), [(0, 0.0), (25, 0.5 - 0.5**1.5), (50, 0.5), (100, 1.0), (1000, 1.0)])
def test_warmup_follows_half_a_cosine(step, weight):
    assert cosine_warmup(step, 100) == pytest.approx(weight)


def test_warmup_of_no_steps_is_over():
    assert cosine_warmup(0, 0) == 1
