import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from fluxflow.diffusion.process import (
    add_noise,
    min_snr_weight,
    noise_from_velocity,
    noise_schedule,
    velocity,
    z0_from_velocity,
)

SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
TIMESTEPS = torch.tensor([0, 1, 250, 500, 998, 999])


@pytest.fixture
def drawn() -> dict[str, torch.Tensor]:
    """z_0, ε and the α, σ of six timesteps."""
    z0, noise = torch.randn(2, 6, 5, 4)
    alpha, sigma = (x[TIMESTEPS, None, None] for x in noise_schedule())
    return {"z0": z0, "noise": noise, "alpha": alpha, "sigma": sigma}


def test_noised_latents_and_velocity_are_those_of_diffusers(drawn):
    reference = DDPMScheduler(**SCHEDULE)
    near = {"atol": 1e-5, "rtol": 1e-5}
    torch.testing.assert_close(add_noise(**drawn), reference.add_noise(drawn["z0"], drawn["noise"], TIMESTEPS), **near)
    torch.testing.assert_close(
        velocity(**drawn), reference.get_velocity(drawn["z0"], drawn["noise"], TIMESTEPS), **near
    )


def test_velocity_turns_back_into_data_and_noise(drawn):
    zt, v = add_noise(**drawn), velocity(**drawn)
    scales = drawn["alpha"], drawn["sigma"]
    torch.testing.assert_close(z0_from_velocity(zt, v, *scales), drawn["z0"], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(noise_from_velocity(zt, v, *scales), drawn["noise"], atol=1e-5, rtol=1e-5)


def test_predictions_are_those_of_diffusers(drawn):
    """For any velocity, also one that no data made. DDPM says z_0, DDIM also ε."""
    zt, v = add_noise(**drawn), torch.randn(6, 5, 4)
    options = {**SCHEDULE, "prediction_type": "v_prediction", "clip_sample": False}
    ddpm, ddim = DDPMScheduler(**options), DDIMScheduler(**options)
    ddim.set_timesteps(1000)
    for i, timestep in enumerate(TIMESTEPS.tolist()):
        alpha, sigma = drawn["alpha"][i], drawn["sigma"][i]
        z0, noise = (turn(zt[i], v[i], alpha, sigma) for turn in (z0_from_velocity, noise_from_velocity))
        torch.testing.assert_close(z0, ddpm.step(v[i], timestep, zt[i]).pred_original_sample, atol=1e-5, rtol=1e-4)
        if timestep > 0:
            less = noise_schedule()[0][timestep - 1], noise_schedule()[1][timestep - 1]
            earlier = ddim.step(v[i], timestep, zt[i], eta=0.0).prev_sample
            torch.testing.assert_close(add_noise(z0, noise, *less), earlier, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("gamma", [0.5, 5.0])
def test_min_snr_bounds_the_weight_of_the_data_error(drawn, gamma):
    """w·‖v̂ − v‖² = min(SNR, γ)·‖ẑ_0 − z_0‖²: in terms of z_0 the weight is the bounded signal-to-noise ratio."""
    alpha, sigma = drawn["alpha"].double(), drawn["sigma"].double()
    zt, v, error = (x.double() for x in (add_noise(**drawn), velocity(**drawn), torch.randn(6, 5, 4)))
    z0_error = z0_from_velocity(zt, v + error, alpha, sigma) - z0_from_velocity(zt, v, alpha, sigma)
    snr = alpha**2 / sigma**2
    bounded = torch.minimum(snr, torch.tensor(gamma))
    weight = min_snr_weight(alpha, sigma, gamma)
    torch.testing.assert_close(weight * error**2, bounded * z0_error**2, atol=1e-6, rtol=1e-5)
    assert (bounded == gamma).any()
    assert (bounded < gamma).any()
