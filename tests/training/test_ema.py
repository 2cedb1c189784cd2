from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from torch import nn
from torch.optim import SGD

from fluxflow.training import EMA
from tests.training import stages


class Exported(LightningModule):
    """A trained and a frozen weight, whose gradients depend on nothing but themselves."""

    def __init__(self) -> None:
        super().__init__()
        self.exported = nn.ParameterDict({"weight": torch.tensor([2.0, -1.0]), "frozen": torch.ones(1)})
        self.exported["frozen"].requires_grad_(False)
        self.validated: list[torch.Tensor] = []

    def training_step(self, batch: Any, batch_idx: int) -> torch.Tensor:
        return self.exported["weight"].square().sum()

    def validation_step(self, batch: Any, batch_idx: int) -> None:
        self.validated.append(self.exported["weight"].detach().clone())

    def configure_optimizers(self) -> SGD:
        return SGD([self.exported["weight"]], lr=0.1)


class Trace(Callback):
    """The trained weight after each batch."""

    def __init__(self) -> None:
        self.weights: list[torch.Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *_: Any) -> None:
        self.weights.append(pl_module.exported["weight"].detach().clone())


def averaged(start: torch.Tensor, trained: list[torch.Tensor], decay: float) -> torch.Tensor:
    average = start.double()
    for n, weight in enumerate(trained):
        kept = min(decay, (1 + n) / (10 + n))
        average = kept * average + (1 - kept) * weight.double()
    return average.float()


@pytest.mark.parametrize("decay", [0.25, 0.999])  # the warm-up ends at the third update, or never
def test_the_average_is_the_recursion_with_its_warm_up(decay: float) -> None:
    module, ema, trace = Exported(), EMA(decay), Trace()
    start = module.exported["weight"].detach().clone()
    stages.fit(module, ema, trace, steps=6)
    assert len(trace.weights) == 6
    torch.testing.assert_close(ema.average["weight"], averaged(start, trace.weights, decay))
    assert ema.average.keys() == {"weight"}


def test_one_update_a_step_whatever_its_batches() -> None:
    module, ema, trace = Exported(), EMA(0.999), Trace()
    start = module.exported["weight"].detach().clone()
    stages.fit(module, ema, trace, steps=3, accumulate_grad_batches=2)
    assert ema.updates == 3
    torch.testing.assert_close(ema.average["weight"], averaged(start, trace.weights[1::2], 0.999))


def test_swapped_puts_both_back_bit_by_bit() -> None:
    module, ema = Exported(), EMA()
    stages.fit(module, ema, steps=3)
    trained, average = module.exported["weight"].detach().clone(), ema.average["weight"].clone()
    parameter = module.exported["weight"]
    with ema.swapped(module):
        assert torch.equal(parameter, average)
    assert module.exported["weight"] is parameter, "the optimizer's own tensor"
    assert torch.equal(parameter, trained)
    assert torch.equal(ema.average["weight"], average)
    assert not torch.equal(trained, average)


def test_validation_sees_the_average_and_training_does_not() -> None:
    module, ema, trace = Exported(), EMA(), Trace()
    start = module.exported["weight"].detach().clone()
    stages.fit(module, ema, trace, steps=4, limit_val_batches=1, val_check_interval=2, check_val_every_n_epoch=None)
    for number, seen in enumerate(module.validated, start=1):
        torch.testing.assert_close(seen, averaged(start, trace.weights[: 2 * number], 0.999))
    assert len(module.validated) == 2
    torch.testing.assert_close(trace.weights[-1], start * (1 - 0.2) ** 4)  # w ← w − 0.1·2w


def test_a_resumed_average_goes_on(tmp_path: Path) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> tuple[EMA, Trainer]:
        ema = EMA()
        return ema, stages.fit(Exported(), ema, steps=steps, checkpoint=checkpoint)

    whole, _ = run(5)
    _, trainer = run(2)
    trainer.save_checkpoint(tmp_path / "two.ckpt")
    parts, _ = run(5, tmp_path / "two.ckpt")
    assert parts.updates == whole.updates == 5
    assert torch.equal(parts.average["weight"], whole.average["weight"])
