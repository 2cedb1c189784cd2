import torch
from diffusers import DDPMScheduler

from fluxflow.diffusion.process import BETA_END, BETA_START, TIMESTEPS, network_time, noise_schedule


def test_schedule_is_that_of_diffusers():
    reference = DDPMScheduler(1000, beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear")
    alpha, sigma = noise_schedule()
    assert alpha.dtype == sigma.dtype == torch.float32
    torch.testing.assert_close(alpha, reference.alphas_cumprod.sqrt(), atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(sigma, (1 - reference.alphas_cumprod).sqrt(), atol=1e-6, rtol=1e-5)


def test_schedule_from_its_definition():
    product, expected = 1.0, []
    for step in range(TIMESTEPS):
        root = BETA_START**0.5 + (BETA_END**0.5 - BETA_START**0.5) * step / (TIMESTEPS - 1)
        product *= 1 - root**2
        expected.append(product)
    alpha, sigma = noise_schedule()
    squared = torch.tensor(expected, dtype=torch.float64)
    torch.testing.assert_close(alpha, squared.sqrt().float(), atol=0, rtol=1e-6)
    torch.testing.assert_close(sigma, (1 - squared).sqrt().float(), atol=0, rtol=1e-6)


def test_variance_is_preserved_and_noise_grows():
    alpha, sigma = noise_schedule()
    torch.testing.assert_close(alpha.square() + sigma.square(), torch.ones(1000))
    assert (alpha.diff() < 0).all()
    assert (sigma.diff() > 0).all()


def test_network_time_spans_the_unit_interval():
    time = network_time(torch.arange(1000))
    assert time.dtype == torch.float32
    assert (float(time[0]), float(time[-1])) == (0, 1)
    assert torch.equal((time * 999).round().long(), torch.arange(1000))
