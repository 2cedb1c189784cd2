"""Versions and sizes of published checkpoints, read off the shapes of their tensors."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from fluxflow.errors import CheckpointError
from fluxflow.published.source import Source
from fluxflow.versions import VERSIONS

# The first of these tensors that is there tells the version.
MARKS = {
    "flow_processor.transformer_blocks.0.film_p0.weight": "0.8.0",
    "compressor.context_proj.weight": "0.7.0",
    "compressor.final_norm.weight": "0.6.0",
    "expander.upscale.layers.0.spade.mlp_gamma.weight": "0.3.0",
    "expander.context_mixer.cls": "0.3.0-additive",
}
# What is said and what the tensors tell → what it is: 0.8.0 has the VAE of 0.7.0, and two models were called 0.3.0.
RESOLVED: dict[tuple[str | None, str | None], str] = {
    ("0.8.0", "0.7.0"): "0.8.0",
    ("0.3.0", "0.3.0-additive"): "0.3.0-additive",
}
HEADS = 8  # that published constructors take where nothing says otherwise
PADDED_LENGTH = 512


@dataclass(frozen=True)
class Choices:
    """What the tensors do not tell; None takes what metadata says, or else what published tools assume.

    Args:
        version: of a flow alone.
        attn_heads: of the compressor.
        flow_heads: of the flow.
        max_hw: latent side that the size token calls 1.
        text_model: folder or hub name of the DistilBERT: the tokenizer, and the weights where they are left out.
    """

    version: str | None = None
    attn_heads: int | None = None
    flow_heads: int | None = None
    max_hw: int | None = None
    text_model: str | None = None


class Shapes:
    """The shapes of one component's tensors, under their published names."""

    def __init__(self, component: str, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.component, self.shapes = component, shapes

    def size(self, name: str, dimension: int = 0) -> int:
        """Return one size of a tensor that must be there."""
        shape = self.shapes.get(name)
        if shape is None or len(shape) <= dimension:
            raise CheckpointError(f"{self.component}.{name} is missing or misshapen: it tells the size of the network.")
        return shape[dimension]

    def count(self, pattern: str) -> int:
        """Return the number of tensors of a name, in which `#` stands for an index."""
        expression = re.compile(re.escape(pattern).replace(r"\#", r"\d+"))
        return sum(expression.fullmatch(name) is not None for name in self.shapes)


def shapes_of(source: Source, component: str) -> Shapes:
    """Return the shapes of one component."""
    return Shapes(component, {name: entry.shape for name, entry in source.components[component].items()})


def version_name(source: Source, choices: Choices) -> str:
    """Return the version of a checkpoint: its tensors', or where they fit several, the metadata's or the user's.

    Raises:
        CheckpointError: nothing tells it, or metadata contradicts the tensors.
    """
    names = {f"{component}.{name}" for component, entries in source.components.items() for name in entries}
    mark = next((mark for mark in MARKS if mark in names), None)
    told = None if mark is None else MARKS[mark]
    said = choices.version or source.metadata.get("model_version") or source.header.get("model_version")
    if said is not None and said not in VERSIONS:
        said = ".".join(str(said).split(".")[:2]) + ".0"  # 0.7.2 has the tensors of 0.7.0
        if said not in VERSIONS:
            raise CheckpointError(f"{source.path} says it is of version {said}; known are {', '.join(VERSIONS)}.")
    version = RESOLVED.get((said, told), said or told)
    if version is None:
        raise CheckpointError(f"{source.path}: no tensor tells the version of its model; give --version.")
    if said and told and told != said and (said, told) not in RESOLVED:
        raise CheckpointError(f"{source.path} says it is of version {said}, but {mark} is of {told}.")
    return version


def arguments(source: Source, choices: Choices) -> dict[str, dict[str, Any]]:
    """Return the constructor arguments of each component that is there.

    Raises:
        CheckpointError: a tensor that tells a size is missing, or the components are of different models.
    """
    if source.header.get("model_type", "bezier") != "bezier":
        raise CheckpointError(
            f"{source.path} is a {source.header['model_type']} model: those without curves are not read."
        )
    version, architecture = version_name(source, choices), source.metadata.get("architecture", {})
    max_hw = choices.max_hw or architecture.get("max_hw", 1024)
    shared = {"max_hw": max_hw, "version": version}
    found: dict[str, dict[str, Any]] = {}
    if "compressor" in source.components:
        found["compressor"] = shared | _compressor(shapes_of(source, "compressor"), choices)
    if "expander" in source.components:
        found["expander"] = shared | _expander(shapes_of(source, "expander"))
    if "flow_processor" in source.components:
        heads = choices.flow_heads or architecture.get("flow_attn_heads")
        found["flow_processor"] = shared | _flow(shapes_of(source, "flow_processor"), version, heads)
        # Published pipelines mix the flow's context from as many tokens as the VAE has halvings.
        depth = found.get("compressor", {}).get("downscales") or found.get("expander", {}).get("upscales")
        found["flow_processor"]["ctx_tokens"] = depth or 4
    if "text_encoder" in source.components:
        found["text_encoder"] = _text_encoder(shapes_of(source, "text_encoder"))
    _check_fit(source, found)
    return found


def most_heads(channels: int, limit: int = HEADS) -> int:
    """Return the largest number of heads up to `limit` that divides `channels`."""
    return max(heads for heads in range(1, limit + 1) if channels % heads == 0)


def _heads(chosen: int | None, channels: int, component: str) -> int:
    heads = chosen or most_heads(channels)
    if heads < 1 or channels % heads:
        raise CheckpointError(f"{heads} attention heads do not divide the {channels} channels of the {component}.")
    return heads


def _compressor(shapes: Shapes, choices: Choices) -> dict[str, Any]:
    channels = shapes.size("latent_proj.0.0.weight") // 5
    layers = shapes.count("token_attn.#.norm1.weight")
    return {
        "in_channels": shapes.size("encoder_first_step.0.0.weight", 1) - 2,  # without the coordinates
        "d_model": channels,
        "downscales": shapes.count("encoder_z.#.0.weight"),
        "attn_layers": layers,
        "attn_heads": _heads(choices.attn_heads, channels, "compressor"),
        "attn_ff_mult": shapes.size("token_attn.0.ff.0.weight") // 5 // channels if layers else 2,
    }


def _expander(shapes: Shapes) -> dict[str, Any]:
    return {
        "d_model": shapes.size("to_rgb_conv.0.weight", 1),
        "upscales": shapes.count("upscale.layers.#.conv1.0.weight"),
    }


def _flow(shapes: Shapes, version: str, heads: int | None) -> dict[str, Any]:
    channels = shapes.size("vae_to_dmodel.weight")
    if shapes.count("transformer_blocks.0.rotary_pe.inv_freq"):
        heads = channels // max(1, 2 * shapes.size("transformer_blocks.0.rotary_pe.inv_freq"))
    return {
        "d_model": channels,
        "vae_dim": shapes.size("vae_to_dmodel.weight", 1) - VERSIONS[version].context_channels,
        "embedding_size": shapes.size("text_proj.weight", 1),
        "n_head": _heads(heads, channels, "flow"),
        "n_layers": shapes.count("transformer_blocks.#.norm1.weight"),
        "layout": "published",
    }


def _text_encoder(shapes: Shapes) -> dict[str, Any]:
    found: dict[str, Any] = {"embed_dim": shapes.size("ouput_layer.3.weight") // 5, "padded_length": PADDED_LENGTH}
    if not any(name.startswith("language_model.") for name in shapes.shapes):
        return found
    embeddings = "language_model.embeddings"
    channels = shapes.size(f"{embeddings}.word_embeddings.weight", 1)
    found["backbone"] = {
        "model_type": "distilbert",
        "vocab_size": shapes.size(f"{embeddings}.word_embeddings.weight"),
        "max_position_embeddings": shapes.size(f"{embeddings}.position_embeddings.weight"),
        "dim": channels,
        "n_layers": shapes.count("language_model.transformer.layer.#.attention.q_lin.weight"),
        "n_heads": max(1, channels // 64),  # as in every published BERT
        "hidden_dim": shapes.size("language_model.transformer.layer.0.ffn.lin1.weight"),
    }
    found["padded_length"] = min(PADDED_LENGTH, found["backbone"]["max_position_embeddings"])
    return found


def _check_fit(source: Source, found: dict[str, dict[str, Any]]) -> None:
    """Refuse components of different models."""
    pairs = [
        ("compressor", "d_model", "expander", "d_model"),
        ("compressor", "downscales", "expander", "upscales"),
        ("compressor", "d_model", "flow_processor", "vae_dim"),
        ("flow_processor", "embedding_size", "text_encoder", "embed_dim"),
    ]
    for one, size, other, other_size in pairs:
        if one in found and other in found and found[one][size] != found[other][other_size]:
            raise CheckpointError(
                f"{source.path} mixes models: its {one} has {size}={found[one][size]}, its {other} "
                f"{other_size}={found[other][other_size]}."
            )
