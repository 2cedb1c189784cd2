"""Optimizers beyond those of torch.optim."""

import math
from collections.abc import Iterable

from torch import nn
from torch.optim import AdamW, Optimizer


def relative_adamw(
    parameters: Iterable[nn.Parameter],
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
        parameters: what is trained.
        lr: rate as a fraction of a tensor's root mean square, which is rounded to a power of √2: tensors of one rate
            form one group.
        smallest, largest: bounds of that root mean square; a tensor that starts at zero counts as the smallest.
        betas: decay of the running means of the gradient and of its square.
        weight_decay: decoupled, as a fraction of each tensor's own rate.
        fused: one kernel for all tensors of a group.
    """
    groups: dict[int, list[nn.Parameter]] = {}
    for parameter in parameters:
        size = parameter.detach().float().square().mean().sqrt().item()
        groups.setdefault(round(2 * math.log2(min(max(size, smallest), largest))), []).append(parameter)
    rates = [{"params": group, "lr": lr * 2 ** (power / 2)} for power, group in sorted(groups.items(), reverse=True)]
    return AdamW(rates, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused)


def scale_rate(optimizer: Optimizer, parameters: Iterable[nn.Parameter], factor: float) -> None:
    """Give some of an optimizer's parameters `factor` times their rate; before its first step."""
    chosen = set(parameters)
    groups, optimizer.param_groups = optimizer.param_groups, []
    for group in groups:
        for rate, params in ((1.0, [p for p in group["params"] if p not in chosen]),
                             (factor, [p for p in group["params"] if p in chosen])):  # fmt: skip
            if params:
                optimizer.add_param_group(group | {"params": params, "lr": rate * group["lr"]})
