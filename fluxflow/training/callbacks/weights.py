"""A module as it is drawn with and exported."""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import torch
from lightning import Callback, LightningModule, Trainer

from fluxflow.training.ema import EMA


@contextmanager
def averaged(trainer: Trainer, pl_module: LightningModule) -> Iterator[None]:
    """Put the averaged weights, where the run has an EMA, and eval mode in place for a while, without gradients."""
    callbacks: list[Callback] = trainer.callbacks  # pyright: ignore[reportAttributeAccessIssue] (set at run time)
    ema = next((callback for callback in callbacks if isinstance(callback, EMA)), None)
    modes = {module: module.training for module in pl_module.modules()}
    pl_module.eval()
    try:
        with torch.no_grad(), ema.swapped(pl_module) if ema else nullcontext():
            yield
    finally:
        for module, mode in modes.items():
            module.training = mode
