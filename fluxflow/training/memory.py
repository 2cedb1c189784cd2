"""What a training step keeps for its backward, found out from the shapes before the first one, and what there is."""

import os
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

# Of float32 activations, what is left where products run in bfloat16: their inputs and curves halve, maps between
# blocks and norms do not.
HALF_SHARE = 0.6
# The backward of the widest curve holds its input, what it recomputes from it and its gradient at once.
WIDEST = 4


@dataclass(frozen=True)
class Kept:
    """What autograd keeps of a forward.

    Attributes:
        total: bytes of all tensors, each storage once.
        largest: bytes of the largest.
    """

    total: int
    largest: int


def kept_for_backward(forward: Callable[[], Any]) -> Kept:
    """Run `forward` and count what its graph keeps, parameters aside. On the meta device that takes no memory.

    Args:
        forward: returns what holds the graph.
    """
    storages: dict[int, int] = {}
    alive: list[Tensor] = []  # or a storage's address would be given to the next

    def keep(tensor: Tensor) -> Tensor:
        if not isinstance(tensor, nn.Parameter):
            storage = tensor.untyped_storage()
            alive.append(tensor)
            storages[storage._cdata] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        graph = forward()
    del graph
    return Kept(sum(storages.values()), max(storages.values(), default=0))


def step_memory(kept: Kept, half: bool) -> int:
    """Bytes of activations at the peak of a step whose forward keeps `kept` in float32.

    Args:
        kept: of the forward.
        half: products run in bfloat16 or float16.
    """
    return round((kept.total + WIDEST * kept.largest) * (HALF_SHARE if half else 1.0))


def states_to_come(module: nn.Module, optimizers: list[torch.optim.Optimizer]) -> int:
    """Bytes of gradients and of optimizer states that the first step will make."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    held = {parameter for optimizer in optimizers for parameter in optimizer.state}
    return sum(p.numel() * p.element_size() * (1 if p in held else 3) for p in trained)


def free_memory(device: torch.device) -> int:
    """Bytes that this process can still take: on a GPU, or of the RAM of this machine or container."""
    if device.type == "cuda":
        unused = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + unused
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    container = Path("/sys/fs/cgroup/memory.max")
    if container.is_file() and (limit := container.read_text(encoding="ascii").strip()).isdigit():
        limits.append(int(limit))
    return min(limits)
