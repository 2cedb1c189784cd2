"""From networks to a folder that published tools open."""

import hashlib
import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from fluxflow import __version__
from fluxflow.checkpoint.index import ModelIndex
from fluxflow.errors import CheckpointError
from fluxflow.files import replacing
from fluxflow.models.weights import serialized
from fluxflow.published.keys import counterparts, derived
from fluxflow.published.sizes import most_heads
from fluxflow.published.source import METADATA, PREFIX, TEXT_ENCODER
from fluxflow.runs import PUBLISHED_WEIGHTS

# Version → what computes the same with the file, by measurement (docs/published.md); other readers do not.
READERS = {
    "0.3.0": "load_versioned_checkpoint of fluxflow 0.5.0",
    "0.3.0-additive": "load_versioned_checkpoint of fluxflow 0.8.1",
    "0.6.0": "FluxFlowPipeline.from_pretrained of fluxflow 0.8.1",
    "0.7.0": "load_versioned_checkpoint of fluxflow 0.8.1",
    "0.8.0": "load_versioned_checkpoint of fluxflow 0.8.1",
}
PUBLISHED_NAMES = {"0.3.0-additive": "0.3.0"}
# Our constructor arguments → the published metadata's.
ARCHITECTURE = {
    "compressor": {
        "in_channels": "in_channels",
        "d_model": "vae_dim",
        "downscales": "downscales",
        "max_hw": "max_hw",
        "attn_layers": "vae_attn_layers",
    },
    "expander": {"upscales": "upscales"},
    "flow_processor": {
        "d_model": "flow_dim",
        "n_layers": "flow_transformer_layers",
        "n_head": "flow_attn_heads",
        "embedding_size": "text_embed_dim",
    },
}


def export_published(index: ModelIndex, components: Mapping[str, Any], out: Path) -> str:
    """Write a model as published tools keep theirs: weights, text encoder, metadata.

    Args:
        index: of the model.
        components: its networks by name.
        out: a new folder.

    Returns:
        What reads the folder and computes the same.

    Raises:
        CheckpointError: the published format or its readers cannot express the model.
    """
    if found := list(_obstacles(index, components)):
        raise CheckpointError(f"{index.folder} cannot be written as a published checkpoint: {'; '.join(found)}.")
    version = components["compressor"].config["version"]
    diffuser = [name for name in ARCHITECTURE if name in components]
    tensors = {
        f"{PREFIX}{name}.{key}": tensor
        for name in diffuser
        for key, tensor in published_state(name, components[name]).items()
    }
    said = {
        "model_type": "bezier",
        "model_version": PUBLISHED_NAMES.get(version, version),
        "vae_dim": str(components["compressor"].config["d_model"]),
    }
    header, values = serialized(tensors, said)
    checksum = hashlib.sha256(header)
    checksum.update(values)
    metadata = {
        "model_version": said["model_version"],
        "library_version": __version__,
        "architecture": {
            theirs: components[name].config[ours] for name in diffuser for ours, theirs in ARCHITECTURE[name].items()
        },
        "components": {name: type(components[name]).__name__ for name in diffuser},
        "training_info": {},
        "checksum": {"weights_hash": checksum.hexdigest(), "algorithm": "sha256"},
    }
    if "text_encoder" in components:
        state = published_state("text_encoder", components["text_encoder"])
        with replacing(out / TEXT_ENCODER) as file:
            file.writelines(serialized({f"text_encoder.{key}": tensor for key, tensor in state.items()}, {}))
    with replacing(out / METADATA) as file:
        file.write((json.dumps(metadata, indent=2) + "\n").encode())
    with replacing(out / PUBLISHED_WEIGHTS[1]) as file:  # last: without it no reader takes the folder for a model
        file.writelines((header, values))
    return READERS[version]


def published_state(component: str, network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of a network under their published names and in their order of rows."""
    state = network.state_dict()
    tensors = {name: part.write(state[part.ours]) for name, part in counterparts(component, network).items()}
    return {name: tensor.detach().cpu().contiguous() for name, tensor in (tensors | derived(network)).items()}


def _obstacles(index: ModelIndex, components: Mapping[str, Any]) -> Iterator[str]:
    """Say what would be read as something else."""
    compressor = components["compressor"].config
    if compressor["version"] not in READERS:
        yield f"nothing published reads version {compressor['version']}: train one of {', '.join(READERS)}"
        return
    if compressor["attn_heads"] != most_heads(compressor["d_model"]) or compressor["attn_ff_mult"] != 2:
        yield f"published readers take {most_heads(compressor['d_model'])} attention heads and attn_ff_mult=2"
    if "flow_processor" in components:
        flow = components["flow_processor"].config
        if flow["layout"] != "published":
            yield "its flow has planar pillars and 2-D positions: train one with model.layout=published"
        if any(index.latent_mean) or any(value != 1 for value in index.latent_std):
            yield "its flow works on normalised latents: export the VAE alone, and train the flow on that"
        if flow["ctx_tokens"] != compressor["downscales"]:
            yield f"published pipelines mix the flow's context from model.ctx_tokens={compressor['downscales']} tokens"
    if "text_encoder" in components:
        text = components["text_encoder"].config
        if text["backbone"]["model_type"] != "distilbert":
            yield "its language model is no DistilBERT"
        if text["padded_length"] is None:
            yield "its text encoder leaves padding out of its mean: train with +text.padded_length=512"
