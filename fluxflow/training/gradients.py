"""Clipping by hand, steps whose gradient is not finite, and gradients of several batches that make one step."""

import logging
import math
from collections.abc import Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
from lightning import LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from torch.optim import Optimizer

from fluxflow.errors import TrainingError

COUNTS = ("ready", "started", "processed", "completed")  # of batches, by Lightning
PATIENCE = 20  # steps: the loss scale of fp16 starts at 2^16 and halves with each step that it leaves out

log = logging.getLogger(__name__)


def clip(optimizer: Optimizer, limit: float) -> Tensor:
    """Has the next step take gradients of a norm of at most `limit`; returns the norm they have.

    A gradient that is not finite would spoil the weights and all that follows, so `optimizer` then leaves its next step
    out. Fused optimizers scale and decide in that step, on the device; for the others the host waits for the norm.
    """
    parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
    norm = get_total_norm([p.grad for p in parameters])
    if optimizer.defaults.get("fused"):
        read_by_step: Any = optimizer
        read_by_step.grad_scale = ((norm + 1e-6) / limit).clamp(min=1)  # divides the gradients
        read_by_step.found_inf = (~norm.isfinite()).float()
    elif norm.isfinite():
        clip_grads_with_norm_(parameters, limit, norm)
    else:
        optimizer.zero_grad(set_to_none=True)
    return norm


class FiniteCheck:
    """Tells of steps that were left out, and ends a run that leaves out `PATIENCE` of them in a row.

    Args:
        networks: whose forwards change buffers, such as the vectors of a power iteration.

    Attributes:
        left_out: names of the networks that the last step did not train.
    """

    def __init__(self, *networks: nn.Module) -> None:
        self.left_out: frozenset[str] = frozenset()
        self._in_a_row = 0
        self._networks = networks
        self._before: list[Tensor] = []

    def begin(self) -> None:
        """Keep the buffers as they are before the forwards of a step."""
        self._before = [buffer.clone() for buffer in self._buffers()]

    def __call__(self, step: int, losses: Mapping[str, Tensor], norms: Mapping[str, Tensor]) -> None:
        """Look at the norms of one step: the one time in it that the host waits for the device.

        The buffers of a step that was left out, if for one network alone, are set back.

        Args:
            step: the number of the step, from 0.
            losses, norms: the loss and the gradient norm of each network that was trained, by its name.

        Raises:
            TrainingError: no step for so long.
        """
        values = torch.stack([*norms.values(), *(loss.detach() for loss in losses.values())]).tolist()
        found = dict(zip(norms, zip(values[: len(norms)], values[len(norms) :], strict=True), strict=True))
        bad = {name: pair for name, pair in found.items() if not math.isfinite(pair[0])}
        self._in_a_row = self._in_a_row + 1 if bad else 0
        self.left_out = frozenset(bad)
        for buffer, before in zip(self._buffers(), self._before, strict=True) if bad else ():
            buffer.copy_(before)
        for name, (norm, loss) in bad.items():
            log.warning("step %d of the %s is left out: loss %g, gradient norm %g", step, name, loss, norm)
        if self._in_a_row == PATIENCE:
            what = " and ".join(f"{name} (loss {loss:g})" for name, (_, loss) in bad.items())
            raise TrainingError(
                f"{PATIENCE} steps in a row up to step {step} had no finite gradient: {what}. Go on from the last "
                "checkpoint (resume=auto) with a smaller stage.optimizer.lr or precision=fp32."
            )

    def _buffers(self) -> list[Tensor]:
        return [buffer for network in self._networks for buffer in network.buffers()]


def unscale(optimizer: Optimizer, precision: Any) -> None:
    """Take the loss scale of precision=fp16 out of the gradients of a fused optimizer, for clipping.

    Lightning does so for the others, and leaves it to the step of a fused one.

    Args:
        optimizer: about to step.
        precision: Lightning's plugin.
    """
    scaler = getattr(precision, "scaler", None)
    if scaler is not None and optimizer.defaults.get("fused"):
        scaler.unscale_(optimizer)


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
