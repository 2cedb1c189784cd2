from pathlib import Path

import pytest
import torch

from fluxflow.errors import CheckpointError
from fluxflow.published.reader import published_arguments
from fluxflow.published.sizes import Choices, arguments, most_heads
from fluxflow.published.source import open_source
from tests import golden, published


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_version_and_sizes_are_those_of_the_constructors(version: str, tmp_path: Path) -> None:
    path = published.write(tmp_path / "model.safetensors", published.state(version))
    found = arguments(open_source(path), Choices(attn_heads=4))
    for component in published.DIFFUSER:
        assert golden.arguments(component, version).items() <= found[component].items()


def test_what_0_8_1_calls_0_3_0_is_told_from_0_3_0(tmp_path: Path) -> None:
    tensors = {k: v for k, v in published.state("0.6.0").items() if "final_norm" not in k}
    mixer = {k: v for k, v in published.state("0.3.0").items() if "context_mixer" in k}
    path = published.write(tmp_path / "model.safetensors", tensors | mixer, model_version="0.3.0")
    assert published_arguments(path)["expander"]["version"] == "0.3.0-additive"


def test_a_flow_alone_needs_its_version_said(tmp_path: Path) -> None:
    tensors = published.state("0.7.0", components=["flow_processor"])
    path = published.write(tmp_path / "flow.safetensors", tensors)
    with pytest.raises(CheckpointError, match="no tensor tells the version of its model; give --version"):
        published_arguments(path)
    assert arguments(open_source(path), Choices("0.7.0"))["flow_processor"]["vae_dim"] == 8
    path = published.write(tmp_path / "flow.safetensors", tensors, model_version="0.7.0")
    assert published_arguments(path)["flow_processor"]["vae_dim"] == 8


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ("0.6.0", r"says it is of version 0\.6\.0, but compressor\.context_proj\.weight is of 0\.7\.0"),
        ("0.9.3", r"says it is of version 0\.9\.0; known are 0\.3\.0"),
    ],
)
def test_metadata_that_contradicts_the_tensors_is_refused(said: str, message: str, tmp_path: Path) -> None:
    path = published.write(tmp_path / "model.safetensors", published.state("0.7.0"), model_version=said)
    with pytest.raises(CheckpointError, match=message):
        published_arguments(path)


def test_models_without_curves_are_refused(tmp_path: Path) -> None:
    path = published.write(tmp_path / "model.safetensors", published.state("0.6.0"), model_type="baseline")
    with pytest.raises(CheckpointError, match="is a baseline model"):
        published_arguments(path)


def test_components_of_different_models_are_refused(tmp_path: Path) -> None:
    tensors = published.state("0.6.0")
    tensors["diffuser.flow_processor.vae_to_dmodel.weight"] = torch.zeros(16, 9)
    path = published.write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(
        CheckpointError, match=r"mixes models: its compressor has d_model=8, its flow_processor vae_dim=9"
    ):
        published_arguments(path)


def test_a_missing_tensor_that_tells_a_size_is_named(tmp_path: Path) -> None:
    tensors = published.state("0.6.0")
    del tensors["diffuser.expander.to_rgb_conv.0.weight"]
    path = published.write(tmp_path / "model.safetensors", tensors)
    with pytest.raises(CheckpointError, match=r"expander\.to_rgb_conv\.0\.weight is missing or misshapen"):
        published_arguments(path)


def test_heads_that_do_not_divide_are_refused(tmp_path: Path) -> None:
    source = open_source(published.write(tmp_path / "model.safetensors", published.state("0.6.0")))
    with pytest.raises(CheckpointError, match="3 attention heads do not divide the 8 channels of the compressor"):
        arguments(source, Choices(attn_heads=3))


@pytest.mark.parametrize(("channels", "heads"), [(128, 8), (8, 8), (12, 6), (14, 7), (11, 1)])
def test_heads_divide_the_channels(channels: int, heads: int) -> None:
    assert most_heads(channels) == heads
