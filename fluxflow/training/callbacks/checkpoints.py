"""Saving a run: `checkpoints/` to go on from, `model/` to be used."""

import logging
import math
from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer

from fluxflow.checkpoint import save_model
from fluxflow.errors import NotFiniteError
from fluxflow.training.accumulation import batches_a_step, forget_begun_step
from fluxflow.training.callbacks.weights import averaged
from fluxflow.training.flow import FlowLitModule
from fluxflow.training.vae import VAELitModule

log = logging.getLogger(__name__)

Stage = VAELitModule | FlowLitModule


class Checkpoints(Callback):
    """Saves `last.ckpt` and the model folder every so many steps, at the end and when interrupted; `best.ckpt` too.

    Args:
        run_dir: the folder of the run.
        every: steps between two saves.
        sample_size: side of the training images, in pixels, for the model folder; None: the data module knows it.
        monitor: the validation metric whose smallest value makes `best.ckpt`.
    """

    def __init__(self, run_dir: str | Path, every: int, sample_size: int | None, monitor: str = "val/loss") -> None:
        self.run_dir = Path(run_dir)
        self.every = every
        self.sample_size = sample_size
        self.monitor = monitor
        self.best = math.inf
        self._saved = 0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._saved = trainer.global_step

    def on_train_batch_end(self, trainer: Trainer, pl_module: Stage, outputs: Any, batch: Any, batch_idx: int) -> None:
        interval = trainer.val_check_batch if trainer.enable_validation else None
        if (
            not interval or (batch_idx + 1) % interval
        ):  # else after it: what is saved now would neither know its result nor repeat it when resumed
            self._save_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Stage) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None and float(value) < self.best:
            self.best = float(value)
            trainer.save_checkpoint(self.run_dir / "checkpoints" / "best.ckpt", weights_only=False)
        self._save_if_due(trainer, pl_module)

    def on_train_end(self, trainer: Trainer, pl_module: Stage) -> None:
        self._save(trainer, pl_module)  # a signal between two steps

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        forget_begun_step(checkpoint, batches_a_step(trainer, pl_module))

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.best = state_dict["best"]

    def _save_if_due(self, trainer: Trainer, pl_module: Stage) -> None:
        step = trainer.global_step
        if step % self.every == 0 or step >= trainer.max_steps or trainer.should_stop:
            self._save(trainer, pl_module)

    def _save(self, trainer: Trainer, pl_module: Stage) -> None:
        if trainer.global_step > self._saved:
            self._saved = trainer.global_step
            trainer.save_checkpoint(self.run_dir / "checkpoints" / "last.ckpt", weights_only=False)
            self._export(trainer, pl_module)

    def _export(self, trainer: Trainer, pl_module: Stage) -> None:
        if trainer.is_global_zero:
            with averaged(trainer, pl_module):
                size = self.sample_size or getattr(trainer, "datamodule").image_size  # noqa: B009 (set at run time)
                try:
                    save_model(self.run_dir / "model", **pl_module.exported_model(), sample_size=size)
                except NotFiniteError as error:
                    log.warning("step %d: %s", trainer.global_step, error)
