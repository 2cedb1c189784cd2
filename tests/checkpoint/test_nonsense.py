"""Every value of every JSON file of a model folder is replaced by nonsense: one sentence, or the same model."""

import json
import resource
import shutil
import time
from pathlib import Path

import pytest
import torch
from torch import nn

from fluxflow.checkpoint import load_model
from fluxflow.errors import CheckpointError, FluxFlowError, TextEncoderError
from fluxflow.pipeline import FluxFlowPipeline
from tests import pipelines
from tests.nonsense import spoiled, write

FILES = ["model_index.json", "compressor/config.json", "expander/config.json", "flow_processor/config.json",
         "text_encoder/config.json", "scheduler/scheduler_config.json", "tokenizer/tokenizer_config.json"]  # fmt: skip


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("model")
    pipelines.pipeline().save_pretrained(folder)
    return folder


def draw(pipeline: FluxFlowPipeline) -> torch.Tensor:
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": 8, "width": 8, "num_inference_steps": 2, "output_type": "pt"}
    return pipeline("a red dress", generator=torch.Generator().manual_seed(0), **options).images


def weights(pipeline: FluxFlowPipeline) -> list[torch.Tensor]:
    networks = [part for part in pipeline.components.values() if isinstance(part, nn.Module)]
    return [tensor for network in networks for tensor in network.state_dict().values()]


def check(folder: Path, part: str, good: FluxFlowPipeline, name: str, failures: list[str]) -> None:
    """Load what was spoiled: it is refused in one line, or it is the model and draws."""
    start = time.perf_counter()
    try:
        if part != "model_index.json":
            pipeline = FluxFlowPipeline(**good.components | load_model(folder, only=[part])[1])
        else:
            pipeline = FluxFlowPipeline.from_pretrained(folder)
        same = all(torch.equal(*pair) for pair in zip(weights(pipeline), weights(good), strict=True))
        if not (same and draw(pipeline).isfinite().all()):
            failures.append(f"{name}: loaded as something else")
    except FluxFlowError as error:
        if len(str(error)) > 600:
            failures.append(f"{name}: {type(error).__name__} {error}")
    except Exception as error:
        failures.append(f"{name}: {type(error).__name__} {str(error)[:100]}")
    if time.perf_counter() - start > 30:
        failures.append(f"{name}: {time.perf_counter() - start:.0f} s")


@pytest.mark.slow
@pytest.mark.parametrize("file", [*FILES, "tokenizer/tokenizer.json"])
def test_nonsense_is_refused_or_does_not_matter(folder: Path, file: str) -> None:
    path, before = folder / file, (folder / file).read_text()
    failures: list[str] = []
    good = pipelines.pipeline()
    for name, content in spoiled(json.loads(before)):
        write(path, content)
        check(folder, file.split("/")[0], good, name, failures)
    path.write_text(before)
    assert not failures, "\n".join(failures)
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss < 4 * 2**20  # KiB


def change(path: Path, **changes: object) -> None:
    write(path, json.loads(path.read_text()) | changes)


@pytest.mark.parametrize(
    ("file", "changes", "message"),
    [
        ("model_index.json", {"latent_mean": [0.0]}, "latent_mean has 1 values for 8 channels"),
        ("model_index.json", {"latent_std": [0.0] * 8}, r"latent_std\[0\] must be a number from 1e-12"),
        ("model_index.json", {"sample_size": [-1, 8]}, r"sample_size\[0\] must be a whole number from 1"),
        ("flow_processor/config.json", {"n_layers": 10**9}, "n_layers must be a whole number from 0 to 256"),
        ("compressor/config.json", {"d_model": 16384}, "The tensors in .* are not those of its config"),
        ("text_encoder/config.json", {"pretrain_model": "a", "download": True}, "pretrain_model is unknown"),
        ("text_encoder/config.json", {"backbone": {"model_type": "bert", "auto_map": {}}}, "auto_map names code"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 10**9}, "num_train_timesteps must be a number"),
        ("scheduler/scheduler_config.json", {"num_train_timesteps": 500}, "has another noise schedule"),
        ("tokenizer/tokenizer_config.json", {"model_max_length": -5}, "model_max_length must be a number from 1"),
        ("tokenizer/tokenizer_config.json", {"auto_map": {"AutoTokenizer": ["a.B", None]}}, "auto_map names code"),
    ],
)
def test_the_sentence_names_file_and_key(
    folder: Path, tmp_path: Path, file: str, changes: dict, message: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("builtins.input", lambda *_: pytest.fail("asked"))
    shutil.copytree(folder, tmp_path / "model")
    change(tmp_path / "model" / file, **changes)
    with pytest.raises(CheckpointError, match=message) as caught:
        FluxFlowPipeline.from_pretrained(tmp_path / "model")
    assert file.split("/")[0] in str(caught.value)


def test_a_token_that_the_text_encoder_does_not_know(folder: Path, tmp_path: Path) -> None:
    shutil.copytree(folder, tmp_path / "model")
    path = tmp_path / "model" / "tokenizer" / "tokenizer.json"
    content = json.loads(path.read_text())
    content["model"]["vocab"]["shoe"] = 11
    write(path, content)
    pipeline = FluxFlowPipeline.from_pretrained(tmp_path / "model")
    with pytest.raises(TextEncoderError, match="a token of number 11, and the language model knows 11"):
        pipeline("a red shoe")
