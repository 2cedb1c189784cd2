import contextlib
import importlib
import inspect
import pkgutil
from collections.abc import Callable
from importlib.util import find_spec
from typing import Any

import diffusers.schedulers
import pytest
import torch
from diffusers import DDIMScheduler, EulerDiscreteScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from fluxflow.diffusion.process import guide, noise_schedule
from fluxflow.diffusion.sampler import SCHEDULERS, Sampling, make_scheduler, sample, unfitness

ALPHA, SIGMA = (x.double() for x in noise_schedule())
LOG_RATIO = (ALPHA / SIGMA).log()
TEXT, NULL = torch.ones(1, 3), torch.zeros(1, 3)


def between(step: float) -> tuple[Tensor, Tensor]:
    """α and σ at a timestep that need not be whole: log α/σ is interpolated."""
    first = min(998, int(step))
    ratio = torch.lerp(LOG_RATIO[first], LOG_RATIO[first + 1], step - first).exp()
    sigma = (1 + ratio**2).rsqrt()
    return ratio * sigma, sigma


class GaussianFlow:
    """The exact velocity for tokens whose data are N(mean, std²): E[α·ε − σ·z_0 | z_t] in closed form."""

    def __init__(self, mean: float, std: float) -> None:
        self.mean, self.std = mean, std
        self.timesteps: list[int] = []
        self.batches: list[int] = []

    def __call__(self, packed: Tensor, text: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
        step = 999 * float(time[0])
        self.timesteps.append(round(step))
        self.batches.append(len(packed))
        assert len(text) == len(time) == len(packed)
        alpha, sigma = between(step)
        centred = (packed - alpha * self.mean) / (alpha**2 * self.std**2 + sigma**2)  # of variance 1 / deviation²
        v = alpha * sigma * centred - sigma * (self.mean + alpha * self.std**2 * centred)
        return v.to(packed.dtype)


def draw(
    flow: Any,
    steps: int,
    noised: Tensor,
    scale: float = 1.0,
    on_step: Callable[[int, int, Sampling], None] = lambda *_: None,
    scheduler: Any = None,
    **options: Any,
) -> Tensor:
    """The packets of clean tokens that come of noised ones."""
    size_token = noised[:, -1:]
    state = Sampling(noised[:, :-1], TEXT.expand(len(noised), 3), NULL.expand(len(noised), 3), scale)
    for step, timestep in sample(flow, scheduler or make_scheduler(), state, size_token, (4, 5), steps, **options):
        on_step(step, timestep, state)
    return torch.cat([state.tokens, size_token.to(state.tokens)], dim=1)


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

        def on_step(index: int, timestep: int, state: Sampling) -> None:
            reached[index] = state.tokens

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
    assert draw(flow, 50, noise(1).to(dtype)).dtype == torch.float32  # and so do the solver's sums
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

    def on_step(index: int, timestep: int, state: Sampling) -> None:
        seen.append((index, timestep))
        if index == 3:
            state.tokens = torch.full_like(state.tokens, 7.0)

    noised = noise(2)
    drawn = draw(GaussianFlow(0.0, 1.0), 4, noised, on_step=on_step)
    assert seen == [(0, 999), (1, 749), (2, 499), (3, 249)]
    assert (drawn[:, :-1] == 7).all()


def test_keeps_no_graph():
    parameter = torch.ones(1, requires_grad=True)
    assert not draw(lambda packed, *_: packed * parameter, 2, noise(1)).requires_grad


def scheduler_classes() -> dict[str, type[SchedulerMixin]]:
    """All of diffusers, those that need a package which is not there left out."""
    found = {}
    for module in pkgutil.walk_packages(diffusers.schedulers.__path__, "diffusers.schedulers."):
        with contextlib.suppress(ImportError):
            members = vars(importlib.import_module(module.name))
            found |= {n: c for n, c in members.items() if inspect.isclass(c) and issubclass(c, SchedulerMixin)}
    return {name: cls for name, cls in found.items() if cls is not SchedulerMixin}


CLASSES = scheduler_classes()
OPTIONS = {"SASolverScheduler": {"algorithm_type": "data_prediction"}}
STOCHASTIC = {"DDPMParallelScheduler", "DDPMScheduler", "EulerAncestralDiscreteScheduler",
              "KDPM2AncestralDiscreteScheduler", "SASolverScheduler"}  # fmt: skip


def solver(name: str) -> Any:
    return CLASSES[name].from_config(make_scheduler().config, **OPTIONS.get(name, {}))  # type: ignore[attr-defined]


def test_there_is_a_scheduler_of_each_name() -> None:
    assert set(SCHEDULERS) <= set(CLASSES)
    assert len(CLASSES) > 40


@pytest.mark.parametrize("name", [name for name in SCHEDULERS if name not in STOCHASTIC])
def test_every_deterministic_solver_ends_where_the_exact_flow_does(name: str) -> None:
    if name == "LMSDiscreteScheduler" and find_spec("scipy") is None:
        assert unfitness(solver(name)) == f"{name} needs scipy, which is not installed (pip install scipy)"
        return
    scheduler, noised = solver(name), noise()
    assert unfitness(scheduler) is None
    steps = 50 if name == "TCDScheduler" else 200  # which takes no more
    drawn = draw(GaussianFlow(0.5, 0.8), steps, noised, scheduler=scheduler)[:, :-1]
    expected = exact_flow(noised[:, :-1], 0.5, 0.8, timestep=0)
    assert float((drawn - expected).abs().max()) < (0.15 if steps == 50 else 0.06) * 0.8


@pytest.mark.parametrize("name", sorted(STOCHASTIC))
def test_every_stochastic_solver_draws_the_data_as_its_generator_says(name: str) -> None:
    scheduler, noised = solver(name), noise(200)
    assert unfitness(scheduler) is None

    def once(seed: int, count: int = 200) -> Tensor:
        generators = [torch.Generator().manual_seed(seed + number) for number in range(count)]
        return draw(GaussianFlow(0.5, 0.8), 100, noised[:count], scheduler=scheduler, generator=generators)[:, :-1]

    first = once(0)
    assert float(first.mean()) == pytest.approx(0.5, abs=0.03)
    assert float(first.std()) == pytest.approx(0.8, rel=0.06)
    assert torch.equal(first, once(0))
    assert not torch.equal(first, once(1))
    torch.testing.assert_close(once(0, count=3), first[:3], atol=1e-4, rtol=1e-4)  # whatever its neighbours are


def test_ddim_takes_eta() -> None:
    scheduler, noised = DDIMScheduler.from_config(make_scheduler().config), noise(200)
    drawn = [draw(GaussianFlow(0.5, 0.8), 100, noised, scheduler=scheduler, eta=eta) for eta in (0.0, 1.0)]
    assert not torch.allclose(*drawn)
    assert float(drawn[1][:, :-1].std()) == pytest.approx(0.8, rel=0.05)


@pytest.mark.parametrize("name", sorted(set(CLASSES) - set(SCHEDULERS)))
def test_all_others_are_refused_by_name(name: str) -> None:
    scheduler = object.__new__(CLASSES[name])
    assert f"{name} is not for velocities" in str(unfitness(scheduler))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"prediction_type": "epsilon"}, "takes the network's output for 'epsilon', and it is a velocity"),
        ({"beta_end": 0.02}, "has another noise schedule than flows are trained with"),
        ({"num_train_timesteps": 100}, "has another noise schedule"),
        ({"rescale_betas_zero_snr": True}, "has another noise schedule"),
        ({"use_flow_sigmas": True}, "use_flow_sigmas=True gives the network other times"),
    ],
)
def test_settings_that_would_draw_something_else_are_refused(options: dict, message: str) -> None:
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(make_scheduler().config, **options)
    assert message in str(unfitness(scheduler))
    assert "DPMSolverMultistepScheduler.from_config(pipeline.scheduler.config)" in str(unfitness(scheduler))


def test_other_times_are_refused() -> None:
    scheduler = EulerDiscreteScheduler.from_config(make_scheduler().config, timestep_type="continuous")
    assert "timestep_type=continuous" in str(unfitness(scheduler))


def test_what_stays_between_two_steps_may_be_changed() -> None:
    """Prompts, guidance and the end: as if the rest had been drawn with them from the start."""
    noised, seen = noise(1), []

    def by_text(packed: Tensor, text: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
        seen.append(text.tolist())
        return packed * 0.1

    def on_step(index: int, timestep: int, state: Sampling) -> None:
        state.text, state.guidance_scale = state.text * 2, 1.0

    draw(by_text, 3, noised, scale=3.0, on_step=on_step)
    assert seen == [[[1.0] * 3, [0.0] * 3], [[2.0] * 3], [[4.0] * 3]]
