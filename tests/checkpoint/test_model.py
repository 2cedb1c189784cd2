import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch

from fluxflow.checkpoint import load_model, load_vae, read_index, save_model
from fluxflow.errors import CheckpointError, NotFiniteError
from fluxflow.models import LatentSpace
from tests import pipelines


def save_vae(folder: Path, seed: int = 0, **components: Any) -> LatentSpace:
    compressor, expander = pipelines.vae(seed)
    space = LatentSpace(compressor, expander, torch.randn(pipelines.D), torch.rand(pipelines.D) + 0.5)
    parts = {"compressor": compressor, "expander": expander, "latent_mean": space.mean, "latent_std": space.std}
    save_model(folder, sample_size=16, **parts, **components)
    return space


def change_index(folder: Path, **changes: object) -> None:
    index = json.loads((folder / "model_index.json").read_text()) | changes
    (folder / "model_index.json").write_text(json.dumps(index))


def test_the_vae_of_a_run_comes_back_bitwise(tmp_path: Path) -> None:
    space = save_vae(tmp_path / "run" / "model")
    loaded = load_vae(tmp_path / "run")
    image = torch.rand(2, 3, 16, 8) * 2 - 1
    with torch.no_grad():
        assert torch.equal(loaded.reconstruct(image), space.reconstruct(image))
    assert not loaded.training
    assert not any(p.requires_grad for p in loaded.parameters())


def test_index_has_the_layout_of_diffusers(tmp_path: Path) -> None:
    save_vae(tmp_path)
    content = json.loads((tmp_path / "model_index.json").read_text())
    assert content["_class_name"] == "FluxFlowPipeline"
    assert content["compressor"] == ["fluxflow.models", "FluxCompressor"]
    assert content["flow_processor"] == [None, None]
    index = read_index(tmp_path)
    assert index.components == ["compressor", "expander"]
    assert index.sample_size == (16, 16)


def test_every_component_comes_back(tmp_path: Path) -> None:
    pipeline = pipelines.pipeline()
    save_vae(tmp_path, flow_processor=pipeline.flow_processor, text_encoder=pipeline.text_encoder,
             scheduler=pipeline.scheduler)  # fmt: skip
    _, components = load_model(tmp_path)
    assert set(components) == set(pipeline.components)
    captions = ["a red dress", ""]
    with torch.no_grad():
        assert torch.equal(components["text_encoder"].encode(captions), pipeline.text_encoder.encode(captions))


@pytest.mark.parametrize("part", ["latent_std", "expander", "flow_processor"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_model_that_is_not_finite_does_not_replace_another(tmp_path: Path, part: str, value: float) -> None:
    parts = {"flow_processor": pipelines.flow(), "latent_mean": torch.zeros(pipelines.D)}
    parts |= dict(zip(("compressor", "expander"), pipelines.vae(), strict=True)) | {
        "latent_std": torch.ones(pipelines.D)
    }
    save_model(tmp_path, **parts)
    before = {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()}
    spoilt = parts[part] if isinstance(parts[part], torch.Tensor) else next(parts[part].parameters()).data
    spoilt.view(-1)[-1] = value
    with pytest.raises(NotFiniteError, match=f"is not written: numbers of its {part} are infinite or NaN"):
        save_model(tmp_path, **parts)
    assert {path: path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()} == before


def test_hash_follows_weights_and_statistics_alone(tmp_path: Path) -> None:
    space = save_vae(tmp_path)
    same = space.content_hash()
    assert same == load_vae(tmp_path).content_hash() == read_index(tmp_path).vae_hash
    assert LatentSpace(space.compressor, space.expander).content_hash() != same
    with torch.no_grad():
        next(space.expander.parameters()).view(-1)[0] += 1
    assert space.content_hash() != same


def test_mixed_folders_are_refused(tmp_path: Path) -> None:
    save_vae(tmp_path / "a", seed=0)
    save_vae(tmp_path / "b", seed=1)
    shutil.copy(tmp_path / "b/expander/model.safetensors", tmp_path / "a/expander/model.safetensors")
    with pytest.raises(CheckpointError, match="files of several models are mixed"):
        load_vae(tmp_path / "a")


def test_a_component_in_the_wrong_folder_is_refused(tmp_path: Path) -> None:
    save_vae(tmp_path)
    shutil.rmtree(tmp_path / "expander")
    shutil.copytree(tmp_path / "compressor", tmp_path / "expander")
    with pytest.raises(CheckpointError, match="holds a FluxCompressor where a FluxExpander belongs"):
        load_vae(tmp_path)


def test_a_folder_without_its_component_is_refused(tmp_path: Path) -> None:
    save_vae(tmp_path)
    shutil.rmtree(tmp_path / "expander")
    with pytest.raises(CheckpointError, match=r"names a expander, but .* is missing"):
        load_vae(tmp_path)


def test_foreign_models_are_refused(tmp_path: Path) -> None:
    save_vae(tmp_path)
    change_index(tmp_path, _class_name="StableDiffusionPipeline")
    with pytest.raises(CheckpointError, match="is a StableDiffusionPipeline, not a model of FluxFlow"):
        load_vae(tmp_path)


def test_an_incomplete_index_is_refused(tmp_path: Path) -> None:
    (tmp_path / "model_index.json").write_text('{"_class_name": "FluxFlowPipeline"}')
    with pytest.raises(CheckpointError, match="lacks latent_mean, latent_std, sample_size, vae_hash"):
        read_index(tmp_path)


def test_a_model_without_a_vae_is_refused(tmp_path: Path) -> None:
    save_vae(tmp_path)
    change_index(tmp_path, compressor=[None, None], expander=[None, None], scheduler=["diffusers", "X"])
    with pytest.raises(CheckpointError, match="holds no VAE, only scheduler"):
        load_vae(tmp_path)


def test_components_in_the_wrong_place_are_not_written(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="flow_processor must be a FluxFlowProcessor, not a Identity"):
        save_vae(tmp_path / "model", flow_processor=torch.nn.Identity())
    assert not (tmp_path / "model").exists()
