"""From noise to latent tokens: DPM-Solver++ of order 2 over trailing steps (Lu et al., 2022; Lin et al., 2024)."""

from collections.abc import Callable
from typing import Literal

import torch
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor

from fluxflow.diffusion.guidance import guide
from fluxflow.diffusion.schedule import BETA_END, BETA_START, TIMESTEPS, network_time

Flow = Callable[[Tensor, Tensor, Tensor, tuple[int, int]], Tensor]
StepCallback = Callable[[int, int, Tensor], Tensor | None]


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


@torch.no_grad()
def sample(
    flow: Flow,
    scheduler: DPMSolverMultistepScheduler,
    noised: Tensor,
    latent_size: tuple[int, int],
    text: Tensor,
    null_text: Tensor,
    steps: int,
    guidance_scale: float,
    on_step: StepCallback | None = None,
) -> Tensor:
    """Integrates the flow from pure noise to clean tokens.

    Args:
        flow: velocity of a packet, as `FluxFlowProcessor.forward`.
        scheduler: the solver.
        noised: packets of N(0, 1) tokens and their size token, [B, T + 1, D].
        latent_size: (h, w) of the tokens.
        text, null_text: embeddings of the prompts and of the empty (or negative) prompt, [B, E] each.
        steps: evaluations of the flow.
        guidance_scale: 1 leaves guidance out, and halves the work.
        on_step: called with (index, timestep, tokens) after each step; may return other tokens.

    Returns:
        Packets of clean tokens, [B, T + 1, D].
    """
    scheduler.set_timesteps(steps, device=noised.device)
    tokens, size_token = noised[:, :-1], noised[:, -1:]
    guided = guidance_scale != 1
    condition = torch.cat([text, null_text]) if guided else text
    for index, timestep in enumerate(scheduler.timesteps):
        packed = torch.cat([tokens, size_token], dim=1)
        packed = torch.cat([packed, packed]) if guided else packed
        time = network_time(timestep).expand(len(packed))
        v = flow(packed, condition, time, latent_size)[:, :-1]
        if guided:
            v = guide(*v.chunk(2), guidance_scale)
        tokens = scheduler.step(v, timestep, tokens, return_dict=False)[0]
        if on_step is not None:
            replaced = on_step(index, int(timestep), tokens)
            tokens = tokens if replaced is None else replaced
    return torch.cat([tokens, size_token], dim=1)
