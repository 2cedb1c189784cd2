import json
from pathlib import Path

import pytest
import torch
from torch import Tensor

from fluxflow.checkpoint import load_model, load_vae, read_index
from fluxflow.errors import CheckpointError
from fluxflow.published.reader import load_published
from fluxflow.published.sizes import Choices
from tests import golden, published


def assert_golden(components: dict, version: str) -> None:
    data = golden.vectors(version)
    components["flow_processor"].ctx_tokens = 4  # the vectors were recorded outside a pipeline
    with torch.no_grad():
        eps = torch.zeros_like(data["out.mu"])
        golden.assert_near(components["compressor"](data["in.image"], eps=eps), data["out.packed"])
        golden.assert_near(components["expander"](data["out.packed"]), data["out.image"])
        velocity = components["flow_processor"](data["in.noisy"], data["in.text"], data["in.timestep"])
        golden.assert_near(velocity, data["out.velocity"])


@pytest.mark.parametrize("prefix", ["diffuser.", ""])
@pytest.mark.parametrize("version", golden.VERSIONS)
def test_a_file_gives_networks_with_the_published_outputs(version: str, prefix: str, tmp_path: Path) -> None:
    path = published.write(tmp_path / "model.safetensors", published.state(version, prefix))
    index, components = load_published(path, Choices(attn_heads=4))
    assert index.components == ["compressor", "expander", "flow_processor", "scheduler"]
    assert {components[name].config["version"] for name in published.DIFFUSER} == {version}
    assert_golden(components, version)


@pytest.mark.parametrize("weights", ["flxflow_final.safetensors", "model.safetensors"])
def test_a_folder_gives_every_component(weights: str, tmp_path: Path) -> None:
    folder = published.write_folder(tmp_path / "run", weights=weights)
    index, components = load_model(folder, Choices(text_model=published.write_tokenizer(tmp_path / "words")))
    assert set(index.components) == set(components)
    assert read_index(folder).components == index.components
    assert components["flow_processor"].config["ctx_tokens"] == 2  # published pipelines take one for each halving
    assert components["scheduler"].config["timestep_spacing"] == "linspace"


@pytest.mark.parametrize("prefix", ["text_encoder.", ""])
def test_the_text_encoder_averages_over_padding_as_the_published_one(prefix: str, tmp_path: Path) -> None:
    state = {prefix + key.removeprefix("text_encoder."): value for key, value in published.text_state().items()}
    published.write(tmp_path / "run" / "model.safetensors", published.state("0.6.0"))
    published.write(tmp_path / "run" / "text_encoder.safetensors", state)
    choices = Choices(text_model=published.write_tokenizer(tmp_path / "words"))
    _, components = load_published(tmp_path / "run", choices, only=["text_encoder"])
    with torch.no_grad():
        embedded = components["text_encoder"].encode(["a red dress", ""])
    golden.assert_near(embedded, published.text_vectors()["out.text"])


def test_the_language_model_comes_from_its_folder_where_the_checkpoint_leaves_it_out(tmp_path: Path) -> None:
    words = published.write_tokenizer(tmp_path / "words")
    complete = published.write(tmp_path / "complete.safetensors", published.text_state())
    alone = published.write(tmp_path / "alone.safetensors", published.text_state(backbone=False))
    encoder = load_published(complete, Choices("0.6.0", text_model=words))[1]["text_encoder"]
    encoder.language_model.save_pretrained(words)
    again = load_published(alone, Choices("0.6.0", text_model=words))[1]["text_encoder"]
    with torch.no_grad():
        assert torch.equal(again.encode(["a red dress"]), encoder.encode(["a red dress"]))


def test_a_text_encoder_without_its_tokenizer_says_how_to_get_it(tmp_path: Path) -> None:
    folder = published.write_folder(tmp_path / "run")
    with pytest.raises(CheckpointError, match=r"leaves out the tokenizer .*--text-model.*hf download"):
        load_model(folder, Choices(text_model=str(tmp_path / "nowhere")))
    assert load_vae(folder).compressor.config["d_model"] == 8  # which needs none


def changed(version: str, changes: dict[str, Tensor | None]) -> dict[str, Tensor]:
    return {key: value for key, value in (published.state(version) | changes).items() if value is not None}


UPSCALE = "diffuser.expander.upscale.layers.0.spade.mlp_beta.bias"
FREQUENCIES = "diffuser.flow_processor.transformer_blocks.1.rotary_pe.inv_freq"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {UPSCALE: None},
            r"missing: expander\.upscale\.layers\.0\.spade\.mlp_beta\.bias \(here expander\.upscale\.0\.",
        ),
        ({UPSCALE: torch.zeros(9)}, r"misshapen: expander\.upscale\.layers\.0\..* \[9\] instead of \[8\]"),
        ({"diffuser.compressor.colour": torch.zeros(1)}, r"superfluous: compressor\.colour\)"),
        ({"diffuser.expander.upscale.0.spade.mlp_beta.bias": torch.zeros(8)}, r"superfluous: expander\.upscale\.0"),
        ({FREQUENCIES: torch.zeros(2)}, r"transformer_blocks\.1\.rotary_pe\.inv_freq holds other frequencies"),
    ],
)
def test_each_wrong_tensor_is_named_with_its_counterpart(
    changes: dict[str, Tensor | None], message: str, tmp_path: Path
) -> None:
    path = published.write(tmp_path / "model.safetensors", changed("0.6.0", changes))
    with pytest.raises(CheckpointError, match=message) as caught:
        load_published(path)
    assert "\n" not in str(caught.value)


def test_half_precision_is_read_as_float32(tmp_path: Path) -> None:
    half = {key: tensor.bfloat16() for key, tensor in published.state("0.7.0").items()}
    _, components = load_published(published.write(tmp_path / "model.safetensors", half))
    weight = components["flow_processor"].text_proj.weight
    assert weight.dtype == torch.float32
    assert torch.equal(weight, half["diffuser.flow_processor.text_proj.weight"].float())


def test_metadata_tells_what_tensors_cannot(tmp_path: Path) -> None:
    flow = {k: v for k, v in published.state("0.8.0").items() if not k.endswith("inv_freq")}
    published.write(tmp_path / "model.safetensors", flow)
    architecture = {"flow_attn_heads": 2, "max_hw": 64}
    metadata = {"model_version": "0.8.1", "architecture": architecture}
    (tmp_path / "model_metadata.json").write_text(json.dumps(metadata))
    _, components = load_published(tmp_path, Choices(attn_heads=2))
    assert components["flow_processor"].config["n_head"] == 2
    assert components["compressor"].config["attn_heads"] == 2
    assert {components[name].max_hw for name in published.DIFFUSER} == {64}
