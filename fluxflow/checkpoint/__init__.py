"""Weights as safetensors beside their config, model folders, and where runs keep them."""

from fluxflow.checkpoint.index import ModelIndex
from fluxflow.checkpoint.model import (
    is_exported,
    load_model,
    load_vae,
    read_index,
    save_model,
    text_hash,
    vae_hash,
)
from fluxflow.checkpoint.networks import load_network, save_network
from fluxflow.checkpoint.training import read_checkpoint, read_first_whole
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
    "text_hash",
    "vae_hash",
]
