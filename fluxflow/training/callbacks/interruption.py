"""Signals in training: stop after the step that is under way, so that the run can be continued."""

import logging
import os
import signal
import subprocess
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer
from lightning.fabric.plugins.environments.slurm import SLURMEnvironment

from fluxflow import signals
from fluxflow.training.gradients import batches_a_step

log = logging.getLogger(__name__)


class Interruption(Callback):
    """Turns the first signal into an orderly stop; a second one ends the process at once.

    After SIGUSR1, with which Slurm announces the end of a job's time, a job of Slurm goes back into its queue.

    Attributes:
        signal: the number of the signal that stopped the run, or None.
    """

    def __init__(self) -> None:
        self.signal: int | None = None
        self._previous: dict[int, Any] = {}
        self._waits = False

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        def stop(number: int, frame: FrameType | None) -> None:
            self.signal = number
            signals.handle(signals.leave)
            trainer.should_stop = not self._waits
            trainer.limit_val_batches = 0  # Lightning would validate before it stops, longer than a scheduler waits
            log.info("%s: saving after this step", signal.Signals(number).name)

        self._previous = signals.handle(stop)

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waits = (batch_idx + 1) % batches_a_step(trainer, pl_module) != 0  # more batches make this step
        if self.signal is not None:
            trainer.should_stop = not self._waits

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        signals.restore(self._previous)
        if self.signal == signal.SIGUSR1 and trainer.is_global_zero and SLURMEnvironment.detect():
            requeue()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        signals.restore(self._previous)


def requeue() -> None:
    """Put this job of Slurm back into its queue, in the place of Lightning, which would save in the midst of a step."""
    job = os.environ["SLURM_JOB_ID"]
    if "SLURM_ARRAY_JOB_ID" in os.environ:
        job = f"{os.environ['SLURM_ARRAY_JOB_ID']}_{os.environ['SLURM_ARRAY_TASK_ID']}"
    try:
        subprocess.run(["scontrol", "requeue", job], check=True)
    except (OSError, subprocess.CalledProcessError) as error:
        log.warning("Job %s is not requeued: %s", job, error)
