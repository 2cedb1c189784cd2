"""What a step is counted as from its shapes, against what torch counts while it is trained."""

from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fluxflow.kernels import fast
from fluxflow.training.flops import counted, vae_step
from tests.training import stages


class Counts(Callback):
    """(counted from shapes, counted in the step) of each step."""

    def __init__(self) -> None:
        self.pairs: list[tuple[int, int]] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: Any, batch: Any, batch_idx: int) -> None:
        self.expected = pl_module.flops(batch)
        self.modes = [fast(False), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False)]
        for mode in self.modes:
            mode.__enter__()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        for mode in reversed(self.modes):
            mode.__exit__(None, None, None)
        self.pairs.append((self.expected, self.modes[-1].get_total_flops()))


@pytest.mark.parametrize("make", [stages.vae, stages.flow])
def test_shapes_tell_what_a_step_takes(make: Any) -> None:
    """In the second step captions have their features, and the discriminator has begun."""
    module, counts = make(**({"gan_start": 0, "gan_ramp": 1, "r1_gamma": 0.0} if make is stages.vae else {})), Counts()
    stages.fit(module, counts, steps=2, data=stages.Data(period=1))
    expected, real = counts.pairs[1]
    assert real == expected > 0


def test_r1_takes_its_verdict_forward_back_and_back_again() -> None:
    space, critic = stages.vae().latent_space, stages.vae().discriminator
    shape = (2, 3, 16, 16)
    plain, with_r1 = (vae_step(space.compressor, space.expander, critic, shape, r1) for r1 in (False, True))
    verdict = counted(lambda: critic(torch.zeros(shape), torch.zeros(2, critic.config["ctx_dim"])))
    assert 4 * verdict <= with_r1 - plain <= 7 * verdict


def test_a_layer_takes_two_operations_for_each_multiplication() -> None:
    assert counted(lambda: nn.Linear(3, 5)(nn.Parameter(nn.Linear(3, 7).weight))) == 2 * 7 * 3 * 5
