"""From published checkpoints to networks."""

from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fluxflow.checkpoint.index import ModelIndex
from fluxflow.diffusion.sampler import make_scheduler
from fluxflow.errors import CheckpointError, TextEncoderError
from fluxflow.models.encoders import BertTextEncoder
from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.models.network import Network
from fluxflow.models.text_encoder import load_tokenizer, locate
from fluxflow.models.vae import FluxCompressor, FluxExpander
from fluxflow.models.weights import faults_between
from fluxflow.published.keys import counterparts, derived
from fluxflow.published.sizes import Choices, arguments
from fluxflow.published.source import Source, open_source
from fluxflow.versions import VERSIONS

CLASSES: dict[str, type[Network]] = {
    "compressor": FluxCompressor,
    "expander": FluxExpander,
    "flow_processor": FluxFlowProcessor,
    "text_encoder": BertTextEncoder,
}
PARTS = (*CLASSES, "tokenizer", "scheduler")
TEXT_MODEL = "distilbert-base-uncased"
SAMPLE_SIZE = 512  # what published pipelines draw where nothing is asked for


def load_published(
    path: str | Path, choices: Choices | None = None, only: Collection[str] = PARTS
) -> tuple[ModelIndex, dict[str, Any]]:
    """Build the components of a published checkpoint, in eval mode, on the CPU, in float32.

    They compute what the published package computes with these weights: its arrangement of the pillars, its rotary
    positions, its rounding of times, its mean over 512 padded tokens, and its time steps.

    Args:
        path: a .safetensors file or a folder of the published layout.
        choices: what the tensors do not tell.
        only: the components to build; the tokenizer comes with the text encoder.

    Raises:
        CheckpointError: nothing readable there, or tensors that are missing, superfluous or misshapen.
    """
    source = open_source(path)
    choices = choices or Choices()
    found = arguments(source, choices)
    components: dict[str, Any] = {}
    for name, options in found.items():
        if name not in only:
            continue
        if name == "text_encoder":
            components |= _text_encoder(source, options, choices.text_model)
        else:
            with torch.device("meta"):
                network = CLASSES[name](**options)
            network.load_state_dict(read_state(source, name, network), assign=True)
            components[name] = network.eval()
    if "flow_processor" in components and "scheduler" in only:
        components["scheduler"] = make_scheduler("linspace")
    return _index(source, found), components


def published_index(path: str | Path) -> ModelIndex:
    """Return what a published checkpoint holds, without loading it; its latents are not normalised."""
    source = open_source(path)
    return _index(source, arguments(source, Choices()))


def published_arguments(path: str | Path) -> dict[str, dict[str, Any]]:
    """Return the constructor arguments of each component of a published checkpoint, without loading it."""
    return arguments(open_source(path), Choices())


def read_state(source: Source, component: str, network: nn.Module) -> dict[str, Tensor]:
    """Return the tensors of `network` under our names and in our order of rows, in float32.

    Raises:
        CheckpointError: naming what is missing, superfluous or misshapen, with what it is here.
    """
    wanted, repeated = counterparts(component, network), derived(network)
    there = {name: entry.shape for name, entry in source.components[component].items()}
    shapes = {name: counterpart.shape for name, counterpart in wanted.items()}
    shapes |= {name: tuple(tensor.shape) for name, tensor in repeated.items() if name in there}

    def named(name: str) -> str:
        here = f" (here {component}.{wanted[name].ours})" if name in wanted else ""
        return f"{component}.{name}{here}"

    if faults := faults_between(there, shapes, named):
        raise CheckpointError(f"{source.path} holds other tensors than its version has ({faults}).")
    tensors = source.tensors(component)
    for name, expected in repeated.items():
        if name in tensors and not torch.allclose(tensors[name].float(), expected, rtol=1e-3):
            raise CheckpointError(f"{source.path}: {component}.{name} holds other frequencies than the published ones.")
    return {part.ours: part.read(tensors[name]).float().contiguous() for name, part in wanted.items()}


def _text_encoder(source: Source, options: dict[str, Any], text_model: str | None) -> dict[str, Any]:
    """Return the text encoder and its tokenizer, which published checkpoints leave out."""
    try:
        folder = locate(text_model or TEXT_MODEL, download=False)
        tokenizer = load_tokenizer(folder)
        weights: dict[str, Any] = {} if "backbone" in options else {"pretrain_model": folder}
        encoder = BertTextEncoder(**options, **weights)
    except TextEncoderError as error:
        raise CheckpointError(
            f"{source.path} leaves out the tokenizer of its text encoder, and {text_model or TEXT_MODEL} cannot be "
            f"used ({error}): give its folder (--text-model, text_model=), or fetch it once: hf download {TEXT_MODEL}."
        ) from error
    # The projection alone where the checkpoint leaves out the language model too.
    read = nn.ModuleDict({"output_layer": encoder.output_layer}) if weights else encoder
    read.load_state_dict(read_state(source, "text_encoder", read))
    encoder.tokenizer = tokenizer
    return {"text_encoder": encoder.eval(), "tokenizer": tokenizer}


def _index(source: Source, found: Mapping[str, dict[str, Any]]) -> ModelIndex:
    components = [name for name in CLASSES if name in found]
    components += ["tokenizer"] if "text_encoder" in found else []
    components += ["scheduler"] if "flow_processor" in found else []
    channels = 0
    for name, size in (("compressor", "d_model"), ("expander", "d_model"), ("flow_processor", "vae_dim")):
        if name in found:
            channels = found[name][size] + VERSIONS[found[name]["version"]].context_channels
    return ModelIndex(
        folder=source.path,
        components=components,
        latent_mean=[0.0] * channels,
        latent_std=[1.0] * channels,
        sample_size=(SAMPLE_SIZE, SAMPLE_SIZE),
        vae_hash=None,
    )
