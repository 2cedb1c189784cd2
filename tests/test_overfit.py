"""Each stage can learn: one batch by heart, through Lightning's Trainer, in few steps."""

from functools import partial

import torch

from fluxflow.models import LatentSpace
from fluxflow.training import FlowLitModule, VAELitModule, relative_adamw
from tests import pipelines
from tests.training import stages

ONE_BATCH = stages.Data(size=4, period=1)
IMAGES = stages.batch(0, size=4)["image"].float() / 127.5 - 1


@torch.no_grad()
def absolute_error(module: VAELitModule) -> float:
    return (module.latent_space.reconstruct(IMAGES) - IMAGES).abs().mean().item()


def test_the_vae_learns_a_batch_by_heart() -> None:
    module, metrics = stages.vae(gan_weight=0.0), stages.Metrics()
    before = absolute_error(module)
    stages.fit(module, metrics, steps=40, data=ONE_BATCH)
    assert absolute_error(module) < before / 4
    assert sum(metrics["loss"][-5:]) < sum(metrics["loss"][:5]) / 3


@torch.no_grad()
def normalised() -> LatentSpace:
    """A VAE of random weights whose tokens of the batch have zero mean and unit deviation."""
    compressor, expander = pipelines.vae()
    tokens = compressor(IMAGES)[:, :-1].flatten(0, 1)
    return LatentSpace(compressor, expander, tokens.mean(dim=0), tokens.std(dim=0))


def velocity_error(module: FlowLitModule) -> float:
    return stages.trainer(limit_val_batches=2).validate(module, ONE_BATCH, verbose=False)[0]["val/loss"]


def test_the_flow_learns_a_batch_by_heart() -> None:
    """Over normalised latents, v and z_t are uncorrelated: who does not know the batch stays at an error of 1."""
    module = stages.flow(normalised(), optimizer=partial(relative_adamw, lr=0.05))
    assert velocity_error(module) > 0.9
    stages.fit(module, steps=120, data=ONE_BATCH)
    assert velocity_error(module) < 0.75
