"""What all networks have in common: they know where their weights are, and diffusers can load and save them."""

from pathlib import Path
from typing import Any, ClassVar, Self

import torch
from torch import nn

from fluxflow.models.registry import NETWORKS


class Network(nn.Module):
    """A module that knows its device and type, and that diffusers can load and save.

    Attributes:
        config: the constructor arguments.
        separate: prefix of tensors → a file of their own in a model folder, so that what is frozen is written once.
    """

    config: dict
    separate: ClassVar[dict[str, str]] = {}

    def __init_subclass__(cls, **options: Any) -> None:
        super().__init_subclass__(**options)
        if cls.__module__.startswith("fluxflow."):
            NETWORKS[cls.__name__] = cls

    def check(self) -> None:
        """Refuse loaded weights with which the network cannot compute. Raises ValueError."""

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """Of the weights."""
        return next(self.parameters()).dtype

    @classmethod
    def from_pretrained(cls, folder: str | Path, torch_dtype: torch.dtype | None = None) -> Self:
        """Load one folder of a model folder, in eval mode, on the CPU, as it is stored or cast.

        Raises:
            CheckpointError: the folder is damaged, or of another class.
        """
        from fluxflow.models.weights import load_network  # here alone: training needs none of it

        network = load_network(folder, cls).to(torch_dtype)
        assert isinstance(network, cls)
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and config into `folder`."""
        from fluxflow.models.weights import save_network

        save_network(self, folder)
