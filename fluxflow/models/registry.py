"""The networks that a model folder can hold, and the hash that tells weights apart."""

import hashlib
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

NETWORKS: dict[str, type[Any]] = {}  # by class name; each subclass of `Network` adds itself


def digest(tensors: Mapping[str, Tensor]) -> str:
    """Return the sha256 over names, types, shapes and bytes of `tensors`, in the order of their sorted names."""
    sha = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        sha.update(f"{name} {tensor.dtype} {list(tensor.shape)}\n".encode())
        sha.update(tensor.reshape(-1).view(torch.uint8).numpy().data)
    return sha.hexdigest()
