"""How well a flow predicts the velocity of held-out images, at which times, and what their captions tell it."""

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow.diffusion.process import TIMESTEPS, noise_schedule, velocity_error
from fluxflow.kernels.conv import to_signed
from fluxflow.metrics.measure import Curve, Evaluation
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.text_encoder import TextEncoder

STRATA = 10  # equal parts of the time, in each of which every image has one timestep
AVERAGED = "averaged weights"


@torch.no_grad()
def evaluate_velocity(
    space: LatentSpace,
    networks: Mapping[str, tuple[nn.Module, TextEncoder]],
    batches: Iterable[dict[str, Any]],
    seed: int = 0,
) -> Evaluation:
    """Predict the velocity of held-out images at noise and times that are always the same.

    Args:
        space: the VAE.
        networks: name → flow and text encoder: `AVERAGED`, and others that are compared with them.
        batches: of "caption" and "image", uint8 [B, 3, H, W], or "mean" and "logvar" of a cache, [B, D, h, w].
        seed: of noise and times.

    Returns:
        The loss of each, the gain of the averaged weights over captions of other images, and both over time.
    """
    generator = torch.Generator().manual_seed(seed)
    errors: dict[str, list[Tensor]] = {name: [] for name in (*networks, "shuffled captions")}
    device = space.mean.device
    tables = [table.to(device)[:, None, None] for table in noise_schedule()]
    batches = list(batches)
    others = iter(other_captions([caption for batch in batches for caption in batch["caption"]]))
    for batch in batches:
        if "image" in batch:
            mean, logvar = space.posterior(to_signed(batch["image"].to(device)))
        else:
            mean, logvar = (batch[name].to(device).float() for name in ("mean", "logvar"))
        packed = space.sample(mean, logvar, torch.randn(mean.shape, generator=generator).to(device))
        captions = {name: list(batch["caption"]) for name in networks}
        captions["shuffled captions"] = [next(others) for _ in batch["caption"]]
        found: dict[str, list[Tensor]] = {name: [] for name in errors}
        for stratum in range(STRATA):
            times = (stratum + torch.rand(len(packed), generator=generator)) * TIMESTEPS / STRATA
            timesteps = times.long().clamp(max=TIMESTEPS - 1).to(device)
            noise = torch.randn(packed[:, :-1].shape, generator=generator).to(device)
            alpha, sigma = (table[timesteps] for table in tables)
            for name in errors:
                flow, encoder = networks.get(name, networks[AVERAGED])
                text, size = encoder.encode(captions[name]), (mean.shape[2], mean.shape[3])
                error = velocity_error(flow, packed, noise, timesteps, text, size, alpha, sigma)
                found[name].append(error.float().cpu())
        for name in errors:
            errors[name].append(torch.stack(found[name], dim=1))
    by_time = {name: torch.cat(parts) for name, parts in errors.items()}  # [N, STRATA]
    return _result(by_time)


def _result(by_time: dict[str, Tensor]) -> Evaluation:
    result, group = Evaluation(), "velocity"
    loss = {name: errors.mean(1) for name, errors in by_time.items()}
    shuffled = loss.pop("shuffled captions")
    for name, values in loss.items():
        key = "velocity_loss" if name == AVERAGED else f"velocity_loss_{name.split()[0]}"
        result.add(key, f"velocity loss, {name}", values, group=group, better="lower")
    gain = shuffled - loss[AVERAGED]
    result.add("caption_gain", "gain over captions of other images", gain, group=group, better="higher")
    middles = [(stratum + 0.5) / STRATA for stratum in range(STRATA)]
    series = {name: errors.mean(0).tolist() for name, errors in by_time.items()}
    result.curves.append(Curve("Velocity loss over time", "t (0: clean, 1: noise)", "loss", middles, series))
    return result


def other_captions(captions: list[str]) -> list[str]:
    """For each caption that of another image: the next one in the list that differs, the same where none does."""
    result = []
    for index, caption in enumerate(captions):
        following = captions[index + 1 :] + captions[:index]
        result.append(next((other for other in following if other != caption), caption))
    return result
