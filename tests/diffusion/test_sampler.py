import pytest
import torch
from torch import Tensor

from fluxflow.diffusion.guidance import guide
from fluxflow.diffusion.sampler import make_scheduler, sample
from fluxflow.diffusion.schedule import noise_schedule

ALPHA, SIGMA = (x.double() for x in noise_schedule())
TEXT, NULL = torch.ones(1, 3), torch.zeros(1, 3)


class GaussianFlow:
    """The exact velocity for tokens whose data are N(mean, std²): E[α·ε − σ·z_0 | z_t] in closed form."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std
        self.timesteps: list[int] = []
        self.batches: list[int] = []

    def __call__(self, packed: Tensor, text: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
        step = round(999 * float(time[0]))
        self.timesteps.append(step)
        self.batches.append(len(packed))
        assert len(text) == len(time) == len(packed)
        alpha, sigma = ALPHA[step], SIGMA[step]
        centred = (packed - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)  # of variance 1 / deviation²
        v = alpha * sigma * centred - sigma * (self.mean + alpha * self.std**2 * centred)
        return v.to(packed.dtype)


def draw(flow: object, steps: int, noised: Tensor, scale: float = 1.0, **options: object) -> Tensor:
    condition = {"text": TEXT.expand(len(noised), 3), "null_text": NULL.expand(len(noised), 3)}
    return sample(flow, make_scheduler(), noised, (4, 5), **condition, steps=steps, guidance_scale=scale, **options)


def noise(count: int = 64) -> Tensor:
    return torch.randn(count, 21, 3)


def exact_flow(start: Tensor, mean: float, std: float, timestep: int) -> Tensor:
    """z_t of the probability-flow ODE of Gaussian data: (z_t − α·mean) / √(α²·std² + σ²) is constant along it."""
    deviation = (ALPHA**2 * std**2 + SIGMA**2).sqrt()
    unit = (start.double() - ALPHA[999] * mean) / deviation[999]
    return ALPHA[timestep] * mean + deviation[timestep] * unit


def exact_end(start: Tensor, mean: float, std: float, last: int) -> Tensor:
    """E[z_0 | z_t] at the last timestep of the exact flow: the solver's step to σ = 0 returns it."""
    alpha, sigma = ALPHA[last], SIGMA[last]
    zt = exact_flow(start, mean, std, last)
    return mean + alpha * std**2 / (alpha**2 * std**2 + sigma**2) * (zt - alpha * mean)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (1.0, 0.8), (-2.0, 1.5)])
@pytest.mark.parametrize("steps", [20, 50])
def test_follows_the_exact_flow_of_gaussian_data(mean, std, steps):
    noised = noise()
    drawn = draw(GaussianFlow(mean, std), steps, noised)
    expected = exact_end(noised[:, :-1], mean, std, last=1000 // steps - 1)
    assert float((drawn[:, :-1] - expected).abs().max()) < 0.03 * std


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 0.8), (-0.5, 1.2)])
def test_samples_have_the_mean_and_deviation_of_the_data(mean, std):
    tokens = draw(GaussianFlow(mean, std), 20, noise(1000))[:, :-1]
    assert float(tokens.mean()) == pytest.approx(mean, abs=0.1 * std)  # the noise starts at N(0, 1), not at α·mean
    assert float(tokens.std()) == pytest.approx(std, rel=0.05)


def test_error_falls_with_the_square_of_the_steps():
    """Half-way, where steps of equal length in t are of similar length in log-SNR."""
    noised = noise()

    def error(steps: int) -> float:
        reached = {}

        def on_step(index: int, timestep: int, tokens: Tensor) -> None:
            reached[index] = tokens

        draw(GaussianFlow(1.0, 0.8), steps, noised, on_step=on_step)
        expected = exact_flow(noised[:, :-1], 1.0, 0.8, timestep=499)
        return float((reached[steps // 2 - 1] - expected).abs().max())

    assert error(40) < error(20) / 3
    assert error(100) < error(50) / 3


@pytest.mark.parametrize("steps", [1, 4, 20, 50])
def test_steps_are_trailing(steps):
    flow = GaussianFlow(0.0, 1.0)
    draw(flow, steps, noise(1))
    assert flow.timesteps == [1000 - 1000 * i // steps - 1 for i in range(steps)]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_time_stays_exact_in_half_precision(dtype):
    """999·t must name the row of the time embedding; eight bits of mantissa would miss it by up to two rows."""
    flow = GaussianFlow(0.0, 1.0)
    assert draw(flow, 50, noise(1).to(dtype)).dtype == dtype
    assert flow.timesteps == [999 - 20 * i for i in range(50)]


def test_size_token_is_never_noised():
    noised = noise()
    assert torch.equal(draw(GaussianFlow(1.0, 1.0), 5, noised)[:, -1], noised[:, -1])


def test_guidance_combines_both_predictions():
    """Both run in one batch, conditional first, and are combined before the solver sees them."""

    def by_text(packed: Tensor, text: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
        return packed * (0.1 + 0.3 * text[:, :1, None])

    def combined(packed: Tensor, text: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
        assert (text == 1).all()
        return guide(0.4 * packed, 0.1 * packed, 3.0)

    noised = noise(3)
    torch.testing.assert_close(draw(by_text, 8, noised, scale=3.0), draw(combined, 8, noised), atol=1e-5, rtol=1e-5)


def test_without_guidance_the_null_text_costs_nothing():
    plain, guided = GaussianFlow(0.0, 1.0), GaussianFlow(0.0, 1.0)
    draw(plain, 5, noise(2))
    draw(guided, 5, noise(2), scale=2.0)
    assert plain.batches == [2] * 5
    assert guided.batches == [4] * 5


def test_callback_sees_every_step_and_may_replace_tokens():
    seen = []

    def on_step(index: int, timestep: int, tokens: Tensor) -> Tensor | None:
        seen.append((index, timestep))
        return torch.full_like(tokens, 7.0) if index == 3 else None

    noised = noise(2)
    drawn = draw(GaussianFlow(0.0, 1.0), 4, noised, on_step=on_step)
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert (drawn[:, :-1] == 7).all()


def test_keeps_no_graph():
    parameter = torch.ones(1, requires_grad=True)
    assert not draw(lambda packed, *_: packed * parameter, 2, noise(1)).requires_grad
