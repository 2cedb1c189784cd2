"""An optimizer beyond torch.optim's, what a resumed one takes from a checkpoint, and the learning rate's schedule."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import AdamW, Optimizer

from fluxflow.errors import CheckpointError

Named = nn.Parameter | tuple[str, nn.Parameter]  # what optimizers of torch take


def relative_adamw(
    parameters: Iterable[Named],
    lr: float,
    smallest: float = 0.02,
    largest: float = 0.3,
    betas: tuple[float, float] = (0.9, 0.99),
    weight_decay: float = 0.0,
    fused: bool = True,
) -> AdamW:
    """AdamW whose rates are relative to the size of each tensor at the start (as in Adafactor, Shazeer & Stern, 2018).

    An Adam step changes every weight by about the rate, whatever the weight's size: what is right for a 1×1 kernel
    moves a transposed convolution of 16×16, with its thousands of small weights an output, by more than the output.

    Args:
        parameters: what is trained, with or without names.
        lr: rate as a fraction of a tensor's root mean square, which is rounded to a power of √2: tensors of one rate
            form one group.
        smallest, largest: bounds of that root mean square; a tensor that starts at zero counts as the smallest.
        betas: decay of the running means of the gradient and of its square.
        weight_decay: decoupled, as a fraction of each tensor's own rate.
        fused: one kernel for all tensors of a group.
    """
    groups: dict[int, list[Named]] = {}
    for named in parameters:
        parameter = named[1] if isinstance(named, tuple) else named
        size = parameter.detach().float().square().mean().sqrt().item()
        groups.setdefault(round(2 * math.log2(min(max(size, smallest), largest))), []).append(named)
    rates = [{"params": group, "lr": lr * 2 ** (power / 2)} for power, group in sorted(groups.items(), reverse=True)]
    return AdamW(rates, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)


def scale_rate(optimizer: Optimizer, parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Give some of an optimizer's parameters `factor` times their rate; before its first step."""
    chosen = set(parameters)
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        for rate, is_one in ((1.0, False), (factor, True)):
            members = [index for index, p in enumerate(group["params"]) if (p in chosen) == is_one]
            if members:
                params: list[Named] = [group["params"][index] for index in members]
                if "param_names" in group:
                    params = [(group["param_names"][index], group["params"][index]) for index in members]
                optimizer.add_param_group(group | {"params": params, "lr": rate * group["lr"]})


def keep_options(optimizer: Optimizer) -> Optimizer:
    """Have an optimizer take from a checkpoint what its steps have gathered, and nothing that a config says.

    torch's own would take rates, betas and all other options of the run that saved it, and its groups.
    """
    optimizer.register_load_state_dict_pre_hook(_with_own_groups)
    return optimizer


def _with_own_groups(optimizer: Optimizer, saved: dict[str, Any]) -> dict[str, Any]:
    """Return a saved state as that of an optimizer with this one's groups, each parameter found by its name.

    Raises:
        CheckpointError: it is of other parameters.
    """
    own = optimizer.state_dict()["param_groups"]
    for mine, theirs in zip(own, saved["param_groups"], strict=False):
        if theirs.get("initial_lr") == mine["lr"]:  # where the schedule stands, should no step follow
            mine.update(initial_lr=mine["lr"], lr=theirs["lr"])
    if not all("param_names" in group for group in [*own, *saved["param_groups"]]):  # by their place, as in torch
        if [len(group["params"]) for group in own] != [len(group["params"]) for group in saved["param_groups"]]:
            raise CheckpointError("the checkpoint's optimizer has other groups of parameters: start a new run")
        return {"state": saved["state"], "param_groups": own}
    there, here = (
        {name: number for group in groups for name, number in zip(group["param_names"], group["params"], strict=True)}
        for groups in (saved["param_groups"], own)
    )
    if different := sorted(there.keys() ^ here.keys()):
        raise CheckpointError(
            f"the checkpoint's optimizer is of another model: it differs in {', '.join(different[:3])}"
        )
    state = {here[name]: saved["state"][number] for name, number in there.items() if number in saved["state"]}
    return {"state": state, "param_groups": own}


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
