"""The exponential moving average of the weights that are exported, and a module with it in place."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from torch import Tensor, nn


class EMA(Callback):
    """Averages the trainable weights of `module.exported`; validation runs on the average.

    The decay warms up, min(decay, (1 + n) / (10 + n)) at update n, so that a short run is not an average of its start.
    A step that was left out is no update.

    Args:
        decay: of the average, for each optimizer step.
    """

    def __init__(self, decay: float = 0.999) -> None:
        self.decay = decay
        self.updates = 0
        self.average: dict[str, Tensor] = {}
        self._step = 0

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        weights = _weights(pl_module)
        if not self.average:
            self.average = {name: weight.detach().clone() for name, weight in weights.items()}
        self.average = {name: self.average[name].to(weight.device) for name, weight in weights.items()}

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._step = trainer.global_step

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if trainer.global_step == self._step:  # between two steps of accumulated gradients
            return
        self._step = trainer.global_step
        if getattr(pl_module, "left_out", False):
            return
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        weights = _weights(pl_module)
        average = [self.average[name] for name in weights]
        trained = [weight.detach() for weight in weights.values()]
        torch._foreach_lerp_(average, trained, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._swap(pl_module)

    @contextmanager
    def swapped(self, pl_module: LightningModule) -> Iterator[None]:
        """Puts the averaged weights in place of the trained ones for a while."""
        self._swap(pl_module)
        try:
            yield
        finally:
            self._swap(pl_module)

    def state_dict(self) -> dict[str, Any]:
        return {"updates": self.updates, "average": self.average}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.updates, self.average = state_dict["updates"], state_dict["average"]

    @torch.no_grad()
    def _swap(self, pl_module: LightningModule) -> None:
        for name, weight in _weights(pl_module).items():
            trained = weight.clone()
            weight.copy_(self.average[name])
            self.average[name].copy_(trained)


def _weights(module: LightningModule) -> dict[str, Tensor]:
    exported: nn.Module = getattr(module, "exported")  # noqa: B009 (an attribute of our modules, unknown to Lightning)
    return {name: weight for name, weight in exported.named_parameters() if weight.requires_grad}


@contextmanager
def averaged(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Put the averaged weights, where the run has an EMA, and eval mode in place for a while, without gradients."""
    ema = find_ema(trainer)
    modes = {module: module.training for module in pl_module.modules()}
    pl_module.eval()
    try:
        with torch.no_grad(), ema.swapped(pl_module) if ema else nullcontext():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode


def find_ema(trainer: Trainer) -> EMA | None:
    """Return the EMA of a run, where it has one."""
    return next((callback for callback in callbacks_of(trainer) if isinstance(callback, EMA)), None)


def callbacks_of(trainer: Trainer) -> list[Callback]:
    """Return the callbacks of a run."""
    return trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] (set at run time)
