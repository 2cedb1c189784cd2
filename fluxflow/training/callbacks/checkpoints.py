"""Saving a run: `checkpoints/` to go on from, `model/` to be used."""

import logging
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.plugins.io import TorchCheckpointIO

from fluxflow.checkpoint.model import is_exported, save_model
from fluxflow.errors import ConfigError, NotFiniteError, StorageError
from fluxflow.files import replacing
from fluxflow.runs import BEST, LAST
from fluxflow.training.ema import averaged, callbacks_of
from fluxflow.training.gradients import batches_a_step, count_batches, forget_begun_step

Stage = Any  # a VAELitModule or FlowLitModule; Lightning's hooks are typed for every module
PATIENCE = 3  # saves in a row that the disk refuses

log = logging.getLogger(__name__)


class Checkpoints(Callback):
    """Saves `last.ckpt` and the model folder every so many steps, at the end and when interrupted; `best.ckpt` too.

    A save that the disk refuses leaves what was there and is tried again at the next one; the run stops after
    `PATIENCE` of them in a row, or with its last. A resumed run first writes the model of its checkpoint where that is
    not there.

    Args:
        run_dir: the folder of the run.
        every: steps between two saves.
        sample_size: side of the training images, in pixels, for the model folder; None: the data module knows it.
        monitor: the validation metric whose best value makes `best.ckpt`: one of the `validation_metrics` of the module
            or of a callback, which is named before this one.
        patience: validations in a row without a better value after which the run stops; None: it never does.
    """

    def __init__(
        self,
        run_dir: str | Path,
        every: int,
        sample_size: int | None,
        monitor: str = "val/loss",
        patience: int | None = None,
    ) -> None:
        self.run_dir = Path(run_dir)
        self.every = every
        self.sample_size = sample_size
        self.monitor, self.patience = monitor, patience
        self.best = math.inf  # of −value where higher is better
        self.since_best = 0  # validations
        self._sign = 1.0
        self._saved = self._tried = 0  # steps
        self._refused = 0  # saves in a row

    def setup(self, trainer: Trainer, pl_module: Stage, stage: str) -> None:
        trainer.strategy.checkpoint_io = WholeCheckpoints()
        metrics: dict[str, str] = dict(pl_module.validation_metrics)
        for callback in callbacks_of(trainer):
            metrics |= getattr(callback, "validation_metrics", {})
        if self.monitor not in metrics:
            raise ConfigError(f"callbacks.checkpoints.monitor is {self.monitor}: it can be {', '.join(metrics)}.")
        if self.patience is not None and self.patience < 1:
            raise ConfigError(f"callbacks.checkpoints.patience is {self.patience}: it must be 1 or more, or null.")
        self._sign = -1.0 if metrics[self.monitor] == "higher" else 1.0

    def on_load_checkpoint(self, trainer: Trainer, pl_module: Stage, checkpoint: dict[str, Any]) -> None:
        self._saved = self._tried = checkpoint["global_step"]
        count_batches(checkpoint, batches_a_step(trainer, pl_module))

    def on_fit_start(self, trainer: Trainer, pl_module: Stage) -> None:
        lacking = bool(self._saved) and trainer.is_global_zero and not is_exported(self.run_dir / "model", self._saved)
        if not trainer.strategy.broadcast(lacking):
            return
        if failure := self._attempt(trainer, lambda: self._export(trainer, pl_module)):
            log.warning("%s It is tried again at the next save.", failure)

    def on_train_batch_end(self, trainer: Trainer, pl_module: Stage, outputs: Any, batch: Any, batch_idx: int) -> None:
        interval = trainer.val_check_batch if trainer.enable_validation else None
        if (
            not interval or (batch_idx + 1) % interval
        ):  # else after it: what is saved now would neither know its result nor repeat it when resumed
            self._save_if_due(trainer, pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: Stage) -> None:
        value = trainer.callback_metrics.get(self.monitor)
        if value is not None:
            self._note(trainer, self._sign * float(value))
        self._save_if_due(trainer, pl_module)

    def _note(self, trainer: Trainer, value: float) -> None:
        """Save `best.ckpt` at a better value, and stop the run where there was none for too long."""
        self.since_best += 1
        if value < self.best:
            before, self.best, self.since_best = self.best, value, 0
            if failure := self._attempt(trainer, lambda: self._checkpoint(trainer, BEST)):
                self.best = before
                log.warning("%s %s is what it was.", failure, BEST.name)
        if self.patience is not None and self.since_best >= self.patience and not trainer.should_stop:
            log.info("%s has not become better in %d validations: the run stops", self.monitor, self.since_best)
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: Stage) -> None:
        if trainer.global_step > self._saved:  # a signal between two steps
            self._save(trainer, pl_module, last=True)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        batches = checkpoint["batches_a_step"] = batches_a_step(trainer, pl_module)
        forget_begun_step(checkpoint, batches)

    def state_dict(self) -> dict[str, Any]:
        return {"best": self.best, "monitor": self.monitor, "since_best": self.since_best}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        if state_dict.get("monitor", self.monitor) == self.monitor:
            self.best, self.since_best = state_dict["best"], state_dict.get("since_best", 0)

    def _save_if_due(self, trainer: Trainer, pl_module: Stage) -> None:
        step, last = trainer.global_step, trainer.global_step >= trainer.max_steps or trainer.should_stop
        if step > self._tried and (step % self.every == 0 or last):
            self._save(trainer, pl_module, last)

    def _save(self, trainer: Trainer, pl_module: Stage, last: bool) -> None:
        """Save checkpoint and model, or say why not. Raises StorageError when there is no use in going on."""
        self._tried = step = trainer.global_step
        failure = self._attempt(trainer, lambda: self._checkpoint(trainer, LAST))
        failure = failure or self._attempt(trainer, lambda: self._export(trainer, pl_module))
        if failure is None:
            self._saved, self._refused = step, 0
            return
        self._refused += 1
        if last or self._refused == PATIENCE:
            raise StorageError(f"{failure} The run stops at step {step}: make room, and go on with resume=auto.")
        log.warning("%s The run goes on and saves again.", failure)

    def _attempt(self, trainer: Trainer, write: Callable[[], None]) -> str | None:
        """Return, on every rank, why the disk refused what the first one wrote; None if it did not."""
        failure = None
        try:
            write()
        except StorageError as error:
            failure = str(error)
        return trainer.strategy.broadcast(failure)

    def _checkpoint(self, trainer: Trainer, name: Path) -> None:
        try:
            trainer.save_checkpoint(self.run_dir / name, weights_only=False)
        except StorageError:
            trainer.strategy.barrier()  # where the other ranks are
            raise

    def _export(self, trainer: Trainer, pl_module: Stage) -> None:
        if trainer.is_global_zero:
            with averaged(trainer, pl_module):
                size = self.sample_size or getattr(trainer, "datamodule").image_size  # noqa: B009 (set at run time)
                step = max(trainer.global_step, self._saved)  # a resumed run does not know the former at its start
                try:
                    save_model(self.run_dir / "model", **pl_module.exported_model(), sample_size=size, step=step)
                except NotFiniteError as error:
                    log.warning("step %d: %s", step, error)


class WholeCheckpoints(TorchCheckpointIO):
    """Writes a checkpoint beside its place and renames it; Lightning's own goes through a folder of another disk."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: str | Path, storage_options: Any = None) -> None:
        """Write one file. Raises StorageError."""
        with replacing(Path(path)) as file:
            torch.save(checkpoint, file)
