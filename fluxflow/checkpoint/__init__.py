"""Model folders, the checkpoints of runs, and where both are found."""

from typing import TYPE_CHECKING

from fluxflow.lazy import exports

if TYPE_CHECKING:
    from fluxflow.checkpoint.index import ModelIndex
    from fluxflow.checkpoint.model import is_exported, load_model, load_vae, read_index, save_model
    from fluxflow.checkpoint.training import read_checkpoint, read_first_whole
    from fluxflow.models.weights import load_network, save_network
    from fluxflow.runs import find_checkpoint, find_model

__all__ = [
    "ModelIndex",
    "find_checkpoint",
    "find_model",
    "is_exported",
    "load_model",
    "load_network",
    "load_vae",
    "read_checkpoint",
    "read_first_whole",
    "read_index",
    "save_model",
    "save_network",
]
__getattr__ = exports(
    __name__,
    {
        "ModelIndex": "checkpoint.index",
        "find_checkpoint": "runs",
        "find_model": "runs",
        "is_exported": "checkpoint.model",
        "load_model": "checkpoint.model",
        "load_network": "checkpoint.model",  # which knows every class
        "load_vae": "checkpoint.model",
        "read_checkpoint": "checkpoint.training",
        "read_first_whole": "checkpoint.training",
        "read_index": "checkpoint.model",
        "save_model": "checkpoint.model",
        "save_network": "models.weights",
    },
)
