"""Trained with all fast forms, and with none.

The flow's losses stay together for 200 steps. A VAE in training amplifies any rounding, tenfold in a few steps at
these toy sizes: plain PyTorch parts as far from itself once oneDNN is off. So the VAE's losses are compared in float64,
before rounding has grown, and in float32 with that distance.
"""

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


def losses(
    stage: str, fast_forms: bool, steps: int = STEPS, one_dnn: bool = True, precision: Any = "32-true", **options: Any
) -> torch.Tensor:
    torch.manual_seed(0)
    seen = Losses()
    with fast(fast_forms), torch.backends.mkldnn.flags(enabled=one_dnn):
        module = stages.STAGES[stage](optimizer=partial(AdamW, lr=1e-3), log_every=1, **options)
        stages.fit(module, seen, steps=steps, log_every_n_steps=1, precision=precision)
    assert len(seen.seen) == steps
    return torch.tensor(seen.seen, dtype=torch.float64)


def farthest(one: torch.Tensor, other: torch.Tensor) -> torch.Tensor:
    """The largest difference up to each step."""
    return (one - other).abs().cummax(0).values


@pytest.mark.slow
def test_the_losses_of_the_flow_with_all_forms_are_those_with_none() -> None:
    on, off = losses("flow", True), losses("flow", False)
    assert not torch.equal(on, off)  # or the switch did nothing
    print(f"flow: loss {off[0]:.4f} to {off[-1]:.4f}, largest difference {farthest(on, off)[-1]:.1e}")
    torch.testing.assert_close(on, off, rtol=0, atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"gan_weight": 0.0}, {}], ids=["alone", "gan"])
def test_the_losses_of_the_vae_with_all_forms_are_those_with_none_in_float64(
    options: dict[str, float], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.Tensor, "float", torch.Tensor.double)
    on, off = (losses("vae", forms, steps=25, precision="64-true", **options) for forms in (True, False))
    assert not torch.equal(on, off)
    torch.testing.assert_close(on, off, rtol=0, atol=1e-9)


@pytest.mark.slow
@pytest.mark.parametrize("options", [{"gan_weight": 0.0}, {}], ids=["alone", "gan"])
def test_the_forms_part_the_losses_of_the_vae_no_more_than_another_rounding_does(options: dict[str, float]) -> None:
    off = losses("vae", False, **options)
    forms = farthest(losses("vae", True, **options), off)
    rounding = farthest(losses("vae", False, one_dnn=False, **options), off)
    for step in (5, 100, STEPS):  # in between, the first of the two to jump may be steps ahead
        print(f"VAE {options}: after {step} steps {forms[step - 1]:.1e}, by rounding {rounding[step - 1]:.1e}")
        assert forms[step - 1] <= 10 * rounding[step - 1].clamp_min(1e-7)
