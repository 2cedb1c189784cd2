"""How the learning rate changes over a run."""

import math
from dataclasses import dataclass

from torch.optim import Optimizer


@dataclass(frozen=True)
class CosineSchedule:
    """Linear warm-up to the optimizer's rate, then half a cosine down to a fraction of it, as a factor in (0, 1].

    Args:
        steps: steps of the whole run.
        warmup: steps of the warm-up.
        minimum: fraction of the rate that is left at the end ("lr_min").
    """

    steps: int
    warmup: int = 0
    minimum: float = 0.0

    def __call__(self, step: int) -> float:
        if step < self.warmup:
            return (step + 1) / self.warmup
        progress = min(1.0, (step - self.warmup) / max(1, self.steps - self.warmup))
        return self.minimum + (1 - self.minimum) * (0.5 + 0.5 * math.cos(math.pi * progress))


def set_learning_rate(optimizer: Optimizer, factor: float) -> float:
    """Sets each group to its own initial rate times `factor`; returns the first group's."""
    for group in optimizer.param_groups:
        group.setdefault("initial_lr", group["lr"])
        group["lr"] = group["initial_lr"] * factor
    return optimizer.param_groups[0]["lr"]
