import json
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from fluxflow.checkpoint import load_network, save_network
from fluxflow.errors import CheckpointError
from fluxflow.models import FluxExpander, PatchDiscriminator
from fluxflow.models.registry import digest
from tests import pipelines


@pytest.fixture
def expander(tmp_path: Path) -> FluxExpander:
    network = FluxExpander(8, 2)
    save_network(network, tmp_path)
    return network


def change_weights(folder: Path, **changes: torch.Tensor | None) -> None:
    tensors = load_file(folder / "model.safetensors") | {name.replace("__", "."): t for name, t in changes.items()}
    save_file({name: t for name, t in tensors.items() if t is not None}, folder / "model.safetensors")


def change_config(folder: Path, **changes: object) -> None:
    config = json.loads((folder / "config.json").read_text()) | changes
    (folder / "config.json").write_text(json.dumps(config))


def assert_same(a: nn.Module, b: nn.Module) -> None:
    ours, theirs = a.state_dict(), b.state_dict()
    assert list(ours) == list(theirs)
    assert all(torch.equal(ours[key], theirs[key]) for key in ours)


@pytest.mark.parametrize(
    "network",
    [
        *pipelines.vae(),
        PatchDiscriminator(base_ch=8, depth=2),
        pipelines.flow(),
        pipelines.text_encoder(),
    ],
    ids=lambda network: type(network).__name__,
)
def test_comes_back_bitwise(network: nn.Module, tmp_path: Path) -> None:
    save_network(network, tmp_path)
    loaded = load_network(tmp_path)
    assert type(loaded) is type(network)
    assert not loaded.training
    assert_same(network, loaded)


def test_each_wrong_tensor_is_named(expander: FluxExpander, tmp_path: Path) -> None:
    change_weights(
        tmp_path, to_rgb_conv__0__bias=None, to_rgb_conv__0__offset=torch.ones(3), rgb_activation__p0=torch.ones(4)
    )
    with pytest.raises(CheckpointError) as caught:
        load_network(tmp_path)
    message = str(caught.value)
    assert "missing: to_rgb_conv.0.bias" in message
    assert "superfluous: to_rgb_conv.0.offset" in message
    assert "misshapen: rgb_activation.p0 [4] instead of " in message


def test_truncated_file(expander: FluxExpander, tmp_path: Path) -> None:
    weights = tmp_path / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated"):
        load_network(tmp_path)


def test_missing_file(expander: FluxExpander, tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"model\.safetensors is missing"):
        load_network(tmp_path)


def test_only_known_classes_are_built(expander: FluxExpander, tmp_path: Path) -> None:
    change_config(tmp_path, _class_name="os.system")
    with pytest.raises(CheckpointError, match=r"names the class 'os\.system'; known are BertTextEncoder"):
        load_network(tmp_path)


def test_foreign_arguments(expander: FluxExpander, tmp_path: Path) -> None:
    change_config(tmp_path, colour="red")
    with pytest.raises(CheckpointError, match="colour is unknown; known are d_model"):
        load_network(tmp_path)


def test_broken_json(expander: FluxExpander, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(CheckpointError, match="not valid JSON"):
        load_network(tmp_path)


def test_what_is_frozen_is_written_once(tmp_path: Path) -> None:
    encoder = pipelines.text_encoder()
    save_network(encoder, tmp_path)
    backbone, projection = tmp_path / "backbone.safetensors", tmp_path / "model.safetensors"
    before = backbone.stat().st_ino, projection.stat().st_ino
    with torch.no_grad():
        next(encoder.output_layer.parameters()).add_(1)
    save_network(encoder, tmp_path)
    assert backbone.stat().st_ino == before[0]
    assert projection.stat().st_ino != before[1]
    assert_same(encoder, load_network(tmp_path))


def test_a_damaged_file_is_written_anew(tmp_path: Path) -> None:
    encoder = pipelines.text_encoder()
    save_network(encoder, tmp_path)
    (tmp_path / "backbone.safetensors").write_bytes(b"damaged")
    save_network(encoder, tmp_path)
    assert_same(encoder, load_network(tmp_path))


def test_config_names_no_folder_of_this_machine(tmp_path: Path) -> None:
    encoder = pipelines.text_encoder()
    encoder.config["backbone"]["_name_or_path"] = "/home/somebody/bert"
    save_network(encoder, tmp_path)
    assert "somebody" not in (tmp_path / "config.json").read_text()


def test_digest_sees_names_shapes_types_and_values() -> None:
    ones = torch.ones(4)
    variants = [{"a": ones}, {"b": ones}, {"a": ones.view(2, 2)}, {"a": ones.double()}, {"a": ones * 2}, {}]
    assert len({digest(variant) for variant in variants}) == len(variants)
    assert digest({"a": ones, "b": ones * 2}) == digest({"b": ones * 2, "a": ones})
