"""What diffusers asks of a part of a pipeline."""

from pathlib import Path
from typing import Self

import torch
from torch import nn


class Network(nn.Module):
    """A module that knows its device and type, and that diffusers can load and save.

    Attributes:
        config: the constructor arguments.
    """

    config: dict

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
        from fluxflow.checkpoint import load_network  # here alone: checkpoints are made of these networks

        network = load_network(folder, cls).to(torch_dtype)
        assert isinstance(network, cls)
        return network

    def save_pretrained(self, folder: str | Path) -> None:
        """Write weights and config into `folder`."""
        from fluxflow.checkpoint import save_network

        save_network(self, folder)
