"""Trained with all fast forms, and with none: the same losses; the VAE without its discriminator."""

from functools import partial
from typing import Any

import pytest
import torch
from lightning import Callback
from torch.optim import AdamW

from fluxflow.kernels import fast
from tests.training import stages

STEPS = 200


class Losses(Callback):
    """The loss of each step."""

    def __init__(self) -> None:
        self.seen: list[float] = []

    def on_train_batch_end(self, trainer: Any, pl_module: Any, *rest: Any) -> None:
        self.seen.append(float(trainer.callback_metrics["loss"]))


def losses(stage: str, fast_forms: bool) -> torch.Tensor:
    torch.manual_seed(0)
    make = partial(AdamW, lr=1e-3)
    alone = {"gan_weight": 0.0} if stage == "vae" else {}
    seen = Losses()
    with fast(fast_forms):
        module = stages.STAGES[stage](optimizer=make, log_every=1, **alone)
        stages.fit(module, seen, steps=STEPS, log_every_n_steps=1)
    assert len(seen.seen) == STEPS
    return torch.tensor(seen.seen)


@pytest.mark.slow
@pytest.mark.parametrize(
    "stage",
    [
        "flow",
        pytest.param(
            "vae", marks=pytest.mark.xfail(strict=True, reason="3e-3 apart after 200 steps, not yet understood")
        ),
    ],
)
def test_the_loss_curve_of_all_forms_on_is_that_of_all_off(stage: str) -> None:
    on, off = losses(stage, True), losses(stage, False)
    assert not torch.equal(on, off)  # or the switch did nothing
    print(f"{stage}: loss {off[0]:.4f} to {off[-1]:.4f}, largest difference {float((on - off).abs().max()):.1e}")
    torch.testing.assert_close(on, off, rtol=0, atol=1e-4)
