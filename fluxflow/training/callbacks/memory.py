"""Where the memory of a step comes from: a heap that stays on CPU, blocks computed again where there is too little."""

import logging
from typing import Any, Literal

from lightning import Callback, Trainer
from torch import nn

from fluxflow.kernels.heap import keep_freed_memory
from fluxflow.training.flow import FlowLitModule
from fluxflow.training.memory import free_memory, kept_for_backward, states_to_come, step_memory
from fluxflow.training.vae import VAELitModule

SHARE = 0.85  # of the free memory; the rest is for workspaces, fragments, and what the estimate misses

log = logging.getLogger(__name__)


class Memory(Callback):
    """Decides at the first batch whether the backward computes the activations of each block again.

    It changes neither losses nor gradients, costs up to a third more time, and leaves little more to keep than the maps
    between blocks. On CPU it has the process keep the memory that a step frees for the next one.

    Args:
        mode: "none", "blocks", or "auto": blocks where a step would take more than `SHARE` of the free memory, of the
            GPU or of the RAM, by the shapes of the batch.
    """

    def __init__(self, mode: Literal["auto", "none", "blocks"] = "auto") -> None:
        self.mode = mode
        self._decided = False

    def setup(self, trainer: Trainer, pl_module: VAELitModule | FlowLitModule, stage: str) -> None:
        keep_freed_memory(trainer.strategy.root_device)

    def on_train_batch_start(
        self, trainer: Trainer, pl_module: VAELitModule | FlowLitModule, batch: Any, batch_idx: int
    ) -> None:
        if self._decided:
            return
        self._decided = True
        recompute = self.mode == "blocks" or (self.mode == "auto" and self._is_tight(trainer, pl_module, batch))
        set_recomputing(pl_module, recompute)

    def _is_tight(self, trainer: Trainer, pl_module: VAELitModule | FlowLitModule, batch: Any) -> bool:
        half = str(trainer.precision).endswith("mixed")
        needed = step_memory(kept_for_backward(lambda: pl_module.draft(batch)), half)
        needed += states_to_come(pl_module, trainer.optimizers)
        free = free_memory(pl_module.device)
        tight = trainer.strategy.reduce_boolean_decision(needed > SHARE * free, all=False)  # one form on all ranks
        told = "memory=auto: a step takes about %.1f GB more, %.1f GB are free: blocks are %s"
        log.info(told, needed / 1e9, free / 1e9, "recomputed" if tight else "kept")
        return tight


def set_recomputing(module: nn.Module, recompute: bool) -> None:
    """Let the backward of every network below `module` that can recompute its blocks, or keep them."""
    for network in module.modules():
        if hasattr(network, "checkpointing"):
            setattr(network, "checkpointing", recompute)  # noqa: B010 (the type checker takes it for a module)
