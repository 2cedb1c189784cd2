"""Ctrl-C and SIGTERM: stop after the step that is under way, so that the run can be continued."""

import logging
import signal
from types import FrameType
from typing import Any

from lightning import Callback, LightningModule, Trainer

from fluxflow.training.accumulation import batches_a_step

log = logging.getLogger(__name__)
SIGNALS = (signal.SIGINT, signal.SIGTERM)


class Interruption(Callback):
    """Turns the first signal into an orderly stop; a second one acts at once.

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
            self._restore()
            trainer.should_stop = not self._waits
            trainer.limit_val_batches = 0  # Lightning would validate before it stops, longer than a scheduler waits
            log.info("%s: saving after this step", signal.Signals(number).name)

        self._previous = {number: signal.signal(number, stop) for number in SIGNALS}

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._waits = (batch_idx + 1) % batches_a_step(trainer, pl_module) != 0  # more batches make this step
        if self.signal is not None:
            trainer.should_stop = not self._waits

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._restore()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        self._restore()

    def _restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)
        self._previous = {}
