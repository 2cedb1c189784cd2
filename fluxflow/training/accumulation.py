"""Gradients of several batches that make one step."""

from contextlib import AbstractContextManager, nullcontext

from lightning import Trainer
from lightning.pytorch.strategies import DDPStrategy


def hold_gradients(trainer: Trainer, hold: bool) -> AbstractContextManager[None]:
    """While `hold`, gradients stay on their rank: only the last backward of a step exchanges them."""
    strategy = trainer.strategy
    return strategy.block_backward_sync() if hold and isinstance(strategy, DDPStrategy) else nullcontext()
