"""From noise to latent tokens, with the solvers of diffusers; by default DPM-Solver++ of order 2 over trailing steps.

Lu et al., 2022; Lin et al., 2024. The solver works in float32, whatever the type of the networks.
"""

import importlib.util
import inspect
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from fluxflow.diffusion.process import BETA_END, BETA_START, TIMESTEPS, guide, network_time, noise_schedule

Flow = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]
Generators = torch.Generator | Sequence[torch.Generator] | None

# Those that end, with many steps, in samples of the data where the velocity is exact (tests/diffusion/test_sampler.py).
SCHEDULERS = (
    "DDIMParallelScheduler",
    "DDIMScheduler",
    "DDPMParallelScheduler",
    "DDPMScheduler",
    "DEISMultistepScheduler",
    "DPMSolverMultistepScheduler",
    "DPMSolverSinglestepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "KDPM2AncestralDiscreteScheduler",
    "KDPM2DiscreteScheduler",
    "LMSDiscreteScheduler",
    "PNDMScheduler",
    "SASolverScheduler",
    "TCDScheduler",
    "UniPCMultistepScheduler",
)
# Options that turn the network's output or its times into something else.
UNFIT = {"use_flow_sigmas": True, "timestep_type": "continuous"}


@dataclass
class Sampling:
    """What is being drawn; whoever looks on may change all of it between two steps.

    Args:
        tokens: noised tokens [B, T, D], at last clean ones.
        text, null_text: embeddings of the prompts and of the empty (or negative) prompts, [B, E] each.
        guidance_scale: up to 1 leaves guidance out, and halves the work.
    """

    tokens: Tensor
    text: Tensor
    null_text: Tensor
    guidance_scale: float


def make_scheduler(spacing: Literal["trailing", "linspace"] = "trailing") -> DPMSolverMultistepScheduler:
    """The solver, with this project's noise schedule; the published package has the spacing "linspace"."""
    return DPMSolverMultistepScheduler(
        num_train_timesteps=TIMESTEPS,
        beta_start=BETA_START,
        beta_end=BETA_END,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        algorithm_type="dpmsolver++",
        solver_order=2,
        timestep_spacing=spacing,
    )


def unfitness(scheduler: Any) -> str | None:
    """Say why a scheduler cannot draw with a flow that was trained here; None if it can."""
    name, is_one = type(scheduler).__name__, isinstance(scheduler, SchedulerMixin)
    if name not in SCHEDULERS or not is_one:
        return f"{name} is not for velocities of a noise schedule; take one of {', '.join(SCHEDULERS)}"
    if name == "LMSDiscreteScheduler" and importlib.util.find_spec("scipy") is None:
        return f"{name} needs scipy, which is not installed (pip install scipy)"
    config: Any = scheduler.config
    again = f"make it with {name}.from_config(pipeline.scheduler.config)"
    if config.prediction_type != "v_prediction":
        return f"{name} takes the network's output for {config.prediction_type!r}, and it is a velocity: {again}"
    schedule = noise_schedule()[0].square()
    betas = scheduler.alphas_cumprod
    if betas.shape != schedule.shape or not torch.allclose(betas.cpu().float(), schedule, rtol=1e-3, atol=1e-6):
        return f"{name} has another noise schedule than flows are trained with: {again}"
    for option, value in UNFIT.items():
        if config.get(option) == value:
            return f"{name} with {option}={value} gives the network other times than it was trained with: {again}"
    return None


@torch.no_grad()
def sample(
    flow: Flow,
    scheduler: Any,
    state: Sampling,
    size_token: Tensor,
    latent_size: tuple[int, int],
    steps: int,
    generator: Generators = None,
    eta: float = 0.0,
) -> Iterator[tuple[int, int]]:
    """Integrate the flow from pure noise to clean tokens, in `state.tokens`.

    Args:
        flow: velocity of a packet, as `FluxFlowProcessor.forward`.
        scheduler: the solver, one of `SCHEDULERS`.
        state: at first with tokens of N(0, 1).
        size_token: that completes the packets, [B, 1, D].
        latent_size: (h, w) of the tokens.
        steps: of the solver.
        generator: of the noise that stochastic solvers add, one or one a sample.
        eta: share of noise that DDIM adds, from 0 to 1.

    Yields:
        Number and timestep of each step that is done; whoever stops early has the tokens of that step.
    """
    if scheduler.config.get("clip_sample"):  # as diffusers' own pipelines: latents are no images, in [-1, 1]
        scheduler.register_to_config(clip_sample=False)
    scheduler.set_timesteps(steps, device=state.tokens.device)
    state.tokens = state.tokens.float() * scheduler.init_noise_sigma
    taken = inspect.signature(scheduler.step).parameters
    given = {"generator": generator, "eta": eta}
    options = {name: value for name, value in given.items() if name in taken}
    for index, timestep in enumerate(scheduler.timesteps):
        tokens = scheduler.scale_model_input(state.tokens, timestep)
        packed = torch.cat([tokens, size_token.to(tokens)], dim=1)
        v = _velocity(flow, state, packed, network_time(timestep), latent_size)
        state.tokens = scheduler.step(v, timestep, state.tokens, **options, return_dict=False)[0]
        yield index, int(timestep)


def _velocity(flow: Flow, state: Sampling, packed: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
    """The velocity of the tokens [B, T, D] in float32, guided where that is asked for; both prompts in one batch."""
    condition = state.text
    if guided := state.guidance_scale > 1:
        packed, condition = torch.cat([packed, packed]), torch.cat([state.text, state.null_text])
    v = flow(packed, condition, time.expand(len(packed)), latent_size)[:, :-1].float()
    if not guided:
        return v
    conditional, unconditional = v.chunk(2)
    return guide(conditional, unconditional, state.guidance_scale)
