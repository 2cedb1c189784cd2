"""The velocity loss of held-out images: against the formula, and what captions and weights do to it."""

import pytest
import torch

from fluxflow.diffusion.process import add_noise, network_time, noise_schedule, velocity, velocity_error
from fluxflow.metrics.velocity import AVERAGED, evaluate_velocity, other_captions
from fluxflow.models.latent_space import LatentSpace
from tests import pipelines

CAPTIONS = ["a red dress", "a green shirt", "a blue shoe", "a red dress"]


@pytest.fixture
def space() -> LatentSpace:
    return LatentSpace(*pipelines.vae()).eval()


def batches() -> list[dict]:
    images = torch.randint(256, (4, 3, 16, 16), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    return [{"image": images[:3], "caption": CAPTIONS[:3]}, {"image": images[3:], "caption": CAPTIONS[3:]}]


def test_the_error_is_that_of_the_formula():
    torch.manual_seed(0)
    flow, packed, text = pipelines.flow(), torch.randn(2, 17, pipelines.D), torch.randn(2, pipelines.TEXT)
    noise, timesteps = torch.randn(2, 16, pipelines.D), torch.tensor([10, 900])
    alpha, sigma = (table[timesteps][:, None, None] for table in noise_schedule())
    found = velocity_error(flow, packed, noise, timesteps, text, (4, 4), alpha, sigma)
    for i in range(2):
        a, s = alpha[i], sigma[i]
        noised = torch.cat([add_noise(packed[i, :-1], noise[i], a, s), packed[i, -1:]])[None]
        predicted = flow(noised, text[i : i + 1], network_time(timesteps[i : i + 1]), (4, 4))[0, :-1]
        expected = (predicted - velocity(packed[i, :-1], noise[i], a, s)).square().mean()
        torch.testing.assert_close(found[i], expected, atol=1e-5, rtol=1e-5)


def test_a_flow_that_predicts_zero_has_the_loss_of_the_velocity_itself(space: LatentSpace):
    """E‖v‖² = α²·E[ε²] + σ²·E[z₀²], at every time."""

    class Zero(torch.nn.Module):
        def forward(self, packed, text, time, latent_size):
            return torch.zeros_like(packed)

    images = [{"image": torch.randint(256, (64, 3, 16, 16), dtype=torch.uint8), "caption": ["a dress"] * 64}]
    result = evaluate_velocity(space, {AVERAGED: (Zero(), pipelines.text_encoder())}, images)
    with torch.no_grad():
        mean, logvar = space.posterior(images[0]["image"] / 127.5 - 1)
        z0 = space.sample(mean, logvar, torch.randn(mean.shape))[:, :-1].square().mean()
    for time, loss in zip(result.curves[0].x, result.curves[0].series[AVERAGED]):
        alpha, sigma = (float(table[int(time * 1000)]) for table in noise_schedule())
        assert loss == pytest.approx(alpha**2 + sigma**2 * float(z0), rel=0.15)
    gain = next(measure for measure in result.measures if measure.name == "caption_gain")
    assert gain.interval == (0, 0, 0)


def test_the_same_twice_and_worse_with_other_weights(space: LatentSpace):
    encoder, flow = pipelines.text_encoder(), pipelines.flow()
    other = pipelines.flow()
    torch.nn.init.normal_(other.dmodel_to_vae.weight, std=2)
    networks = {AVERAGED: (flow, encoder), "raw weights": (other, encoder)}
    first, second = (evaluate_velocity(space, networks, batches()) for _ in range(2))
    assert first == second
    values = {measure.name: measure.interval.value for measure in first.measures}
    assert values["velocity_loss_raw"] > values["velocity_loss"]
    assert values["caption_gain"] != 0
    assert len(first.curves[0].x) == len(first.curves[0].series["shuffled captions"]) == 10


def test_other_captions_are_other_captions():
    found = other_captions(CAPTIONS)
    assert all(other != caption and other in CAPTIONS for other, caption in zip(found, CAPTIONS))
    assert other_captions(["same", "same"]) == ["same", "same"]
