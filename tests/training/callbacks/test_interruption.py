import os
import signal
from pathlib import Path
from typing import Any

import pytest
from lightning import Callback, LightningModule, Trainer

from fluxflow import signals
from fluxflow.training.callbacks.interruption import Interruption
from tests.training.callbacks import standin


class Kill(Callback):
    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        if trainer.global_step == 2:
            os.kill(os.getpid(), self.number)

    def __init__(self, number: int) -> None:
        self.number = number


@pytest.mark.parametrize("number", signals.SIGNALS)
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


def test_a_second_signal_ends_the_process_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    left = []
    monkeypatch.setattr(signals, "leave", lambda number, frame: left.append(number))

    class Twice(Kill):
        def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
            if trainer.global_step == 3:
                os.kill(os.getpid(), signal.SIGHUP)

    interruption = Interruption()
    standin.trainer(Twice(signal.SIGTERM), interruption, steps=100).fit(standin.Module(), standin.Data())
    assert interruption.signal == signal.SIGTERM
    assert left == [signal.SIGHUP]


@pytest.mark.parametrize("number", [signal.SIGUSR1, signal.SIGTERM])
def test_slurm_gets_its_job_back_after_sigusr1(number: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "scontrol").write_text(f"#!/bin/sh\necho $@ >> {tmp_path}/asked\n")
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    trainer = standin.trainer(Kill(number), Interruption(), steps=100)
    for name, value in {
        "NTASKS": "1",
        "JOB_NAME": "train",
        "ARRAY_JOB_ID": "7",
        "ARRAY_TASK_ID": "3",
        "JOB_ID": "9",
    }.items():
        monkeypatch.setenv(f"SLURM_{name}", value)
    trainer.fit(standin.Module(), standin.Data())
    asked = tmp_path / "asked"
    assert (asked.read_text() if asked.exists() else "") == ("requeue 7_3\n" if number == signal.SIGUSR1 else "")
    assert trainer.global_step == 3
