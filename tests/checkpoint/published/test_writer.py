import hashlib
import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from fluxflow.checkpoint import load_model, save_model
from fluxflow.checkpoint.index import ModelIndex
from fluxflow.errors import CheckpointError
from fluxflow.models import BezierTextEncoder
from fluxflow.published.reader import load_published
from fluxflow.published.sizes import Choices
from fluxflow.published.writer import export_published
from tests import golden, pipelines, published


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_import_export_import_is_bitwise(version: str, tmp_path: Path) -> None:
    """Every tensor of the file comes back under its name, and what ours compute in float64 stays the same."""
    tensors = published.state(version)
    first = load_published(published.write(tmp_path / "model.safetensors", tensors))
    export_published(*first, tmp_path / "out")
    written = load_file(tmp_path / "out" / "model.safetensors")
    assert set(written) == set(tensors)
    for key, tensor in tensors.items():
        if key.endswith("inv_freq"):
            torch.testing.assert_close(written[key], tensor, rtol=1e-6, atol=0)
        else:
            assert torch.equal(written[key], tensor), key
    second = load_published(tmp_path / "out")
    data = {key: tensor.double() for key, tensor in golden.vectors(version).items() if not key.startswith("param.")}
    outputs = []
    for _, components in (first, second):
        compressor, expander, flow = (
            components[name].double() for name in ("compressor", "expander", "flow_processor")
        )
        with torch.no_grad():
            packed = compressor(data["in.image"], eps=torch.zeros_like(data["out.mu"]))
            velocity = flow(data["in.noisy"], data["in.text"], data["in.timestep"])
            outputs.append([packed, expander(packed), velocity])
    for value, expected in zip(*outputs, strict=True):
        golden.assert_near(value, expected, tolerance=1e-9)


def test_a_model_folder_between_changes_nothing(tmp_path: Path) -> None:
    folder = published.write_folder(tmp_path / "in")
    index, components = load_model(folder, Choices(text_model=published.write_tokenizer(tmp_path / "words")))
    statistics = {"latent_mean": index.latent_mean, "latent_std": index.latent_std, "sample_size": index.sample_size}
    save_model(tmp_path / "model", **components, **statistics)
    export_published(*load_model(tmp_path / "model"), tmp_path / "out")
    expected = published.state("0.6.0") | published.text_state()
    written = load_file(tmp_path / "out" / "model.safetensors")
    written |= load_file(tmp_path / "out" / "text_encoder.safetensors")
    assert set(written) == set(expected)
    assert all(torch.equal(written[key], tensor) for key, tensor in expected.items() if "inv_freq" not in key)


def test_metadata_describes_the_weights(tmp_path: Path) -> None:
    export_published(*load_published(published.write(tmp_path / "a.safetensors", published.state("0.8.0"))), tmp_path)
    metadata = json.loads((tmp_path / "model_metadata.json").read_text())
    assert metadata["model_version"] == "0.8.0"
    assert metadata["architecture"] == {
        "in_channels": 3, "vae_dim": 8, "downscales": 2, "max_hw": 1024, "vae_attn_layers": 2, "upscales": 2,
        "flow_dim": 16, "flow_transformer_layers": 2, "flow_attn_heads": 4, "text_embed_dim": 32,
    }  # fmt: skip
    content = (tmp_path / "model.safetensors").read_bytes()
    assert metadata["checksum"]["weights_hash"] == hashlib.sha256(content).hexdigest()


def parts(path: Path, **changes: Any) -> tuple[ModelIndex, dict[str, Any]]:
    """A model that the format can express, with components changed."""
    index, components = load_published(published.write(path / "a.safetensors", published.state("0.6.0")))
    return index, components | changes


def test_what_the_format_cannot_express_is_refused_and_nothing_written(tmp_path: Path) -> None:
    compressor, expander = pipelines.vae()
    mine = {"compressor": compressor, "expander": expander}
    refused = [
        (parts(tmp_path, flow_processor=pipelines.flow()), r"planar pillars .* model\.layout=published"),
        (parts(tmp_path, text_encoder=pipelines.text_encoder()), r"no DistilBERT; .* \+text\.padded_length=512"),
        (parts(tmp_path, **mine), "published readers take 8 attention heads"),
    ]
    index, components = parts(tmp_path)
    shifted = ModelIndex(index.folder, index.components, [0.5] * 8, index.latent_std, None, None)
    refused.append(((shifted, components), "normalised latents"))
    components["flow_processor"].config["ctx_tokens"] = 3
    refused.append(((index, components), r"model\.ctx_tokens=2"))
    own = parts(tmp_path)
    own[1]["compressor"].config["version"] = "1.0"
    own[1]["text_encoder"] = BezierTextEncoder(8, vocabulary=9)
    refused.append((own, r"nothing published reads version 1\.0"))
    for model, message in refused:
        with pytest.raises(CheckpointError, match=f"cannot be written as a published checkpoint: .*{message}"):
            export_published(*model, tmp_path / "out")
        assert not (tmp_path / "out").exists()


def test_a_vae_that_was_trained_here_is_written_alone(tmp_path: Path) -> None:
    compressor, expander = pipelines.vae()
    index = ModelIndex(tmp_path, [], [0.5] * 8, [2.0] * 8, None, None)
    compressor.config["attn_heads"] = 8  # of 8 channels
    export_published(index, {"compressor": compressor, "expander": expander}, tmp_path / "out")
    _, again = load_published(tmp_path / "out")
    for name, network in (("compressor", compressor), ("expander", expander)):
        state = again[name].state_dict()
        assert all(torch.equal(state[key], tensor) for key, tensor in network.state_dict().items())
