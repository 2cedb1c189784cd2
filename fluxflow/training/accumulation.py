"""Gradients of several batches that make one step."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy

COUNTS = ("ready", "started", "processed", "completed")  # of batches, by Lightning


def hold_gradients(trainer: Trainer, hold: bool) -> AbstractContextManager[None]:
    """While `hold`, gradients stay on their rank: only the last backward of a step exchanges them."""
    strategy = trainer.strategy
    return strategy.block_backward_sync() if hold and isinstance(strategy, DDPStrategy) else nullcontext()


def batches_a_step(trainer: Trainer, module: LightningModule) -> int:
    """Batches whose gradients make one step: Lightning counts them, or a module that steps by hand does."""
    return trainer.accumulate_grad_batches if module.automatic_optimization else getattr(module, "accumulate", 1)


def forget_begun_step(checkpoint: dict[str, Any], batches: int) -> None:
    """Set Lightning's counters back to the last whole step, since the gradients of one that has begun are not saved.

    Args:
        checkpoint: what Lightning is about to save.
        batches: that make one step.
    """
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    begun = progress["current"]["ready"] % batches
    for counts in (progress["total"], progress["current"]) if begun else ():
        counts.update(dict.fromkeys(COUNTS, counts["ready"] - begun))


def count_batches(checkpoint: dict[str, Any], batches: int) -> None:
    """Have Lightning's counters hold the batches that the steps of a run would have taken with another number of them.

    Args:
        checkpoint: from which the run goes on.
        batches: that make one step from now on.
    """
    before = checkpoint.get("batches_a_step", batches)
    progress = checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"]
    for counts in (progress["total"], progress["current"]) if before != batches else ():
        counts.update(dict.fromkeys(COUNTS, counts["ready"] // before * batches))
