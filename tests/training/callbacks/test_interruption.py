import os
import signal
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from fluxflow.training.callbacks import Interruption
from tests.training.callbacks import standin


class Kill(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), self.number)

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_training_after_the_step_under_way(number: int) -> None:
    before = signal.getsignal(number)
    interruption = Interruption()
    trainer = standin.trainer(Kill(number), interruption, steps=100)
    trainer.fit(standin.Module(), standin.Data())
    assert trainer.global_step == 3
    assert interruption.signal == number
    assert signal.getsignal(number) == before


@pytest.mark.parametrize("batch", [6, 7, 8])
def test_a_step_of_several_batches_is_finished(batch: int) -> None:
    class KillAt(Kill):
        def on_train_batch_start(self, trainer: Trainer, pl_module: Any, data: Any, batch_idx: int) -> None:
            if batch_idx == batch:
                os.kill(os.getpid(), self.number)

    trainer = standin.trainer(KillAt(signal.SIGTERM), Interruption(), steps=100)
    trainer.accumulate_grad_batches = 3
    trainer.fit(standin.Module(), standin.Data())
    assert trainer.global_step == 3
    assert trainer.fit_loop.total_batch_idx == 8


def test_a_run_that_ends_by_itself_has_no_signal() -> None:
    interruption = Interruption()
    standin.trainer(interruption).fit(standin.Module(), standin.Data())
    assert interruption.signal is None
