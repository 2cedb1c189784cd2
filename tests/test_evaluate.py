"""`python -m fluxflow.evaluate`: what it finds, twice the same, and what it refuses."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf
from PIL import Image
from torch import nn

from fluxflow.checkpoint import save_model
from fluxflow.commands.build import resolved
from fluxflow.commands.evaluate import interval, main
from fluxflow.commands.objects import CONFIGS
from tests import pipelines

Evaluate = Callable[..., dict]


class Means(nn.Module):
    """Features that cost nothing: the mean of each colour in the four quarters."""

    def forward(self, image: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        return nn.functional.adaptive_avg_pool2d(image.float() / 255, 2).flatten(1)


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """30 images of noise with captions."""
    folder = tmp_path_factory.mktemp("pictures")
    generator = torch.Generator().manual_seed(0)
    for number in range(30):
        pixels = torch.randint(256, (16, 16, 3), generator=generator, dtype=torch.uint8)
        Image.fromarray(pixels.numpy()).save(folder / f"{number}.png")
        colour = ("red", "green", "blue")[number % 3]
        (folder / f"{number}.txt").write_text(f"a photo of a {colour} dress on a red background")
    return folder


@pytest.fixture
def runs(tmp_path: Path, pictures: Path) -> Path:
    """vae/ and flow/ with models and the configs of runs on `pictures`."""
    pipeline = pipelines.pipeline()
    pipeline.save_pretrained(tmp_path / "flow/model")
    save_model(
        tmp_path / "vae/model",
        compressor=pipeline.compressor,
        expander=pipeline.expander,
        latent_mean=torch.zeros(pipelines.D),
        latent_std=torch.ones(pipelines.D),
        sample_size=16,
    )
    for stage in ("vae", "flow"):
        options = [f"data.train={pictures}", "data.image_size=16", "data.val_fraction=0.4", f"run_dir={tmp_path}"]
        with initialize_config_dir(str(CONFIGS), version_base="1.3"):
            config = resolved(compose("train", [f"stage={stage}", "model=tiny", "data=folder", *options]))
        OmegaConf.save(OmegaConf.create(config), tmp_path / stage / "config.yaml")
    torch.jit.script(Means()).save(tmp_path / "means.pt")  # pyright: ignore[reportAttributeAccessIssue]
    return tmp_path


def evaluate(runs: Path, *names: str, options: tuple[str, ...] = ()) -> int:
    fast = ("--features", f"inception:{runs / 'means.pt'}", "--device", "cpu", "--steps", "2", "--prompts", "5")
    return main([*(str(runs / name) for name in names), *fast, "--training", "20", *options])


def found(run: Path) -> dict[tuple[str, str], dict]:
    content = json.loads((run / "evaluation.json").read_text(), parse_constant=pytest.fail)
    return {(measure["group"], measure["name"]): measure for measure in content["measures"]}


def test_a_vae_and_a_flow_are_measured_twice_the_same(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert evaluate(runs, "vae", "flow") == 0
    table = capsys.readouterr().out
    first = [(runs / stage / "evaluation.json").read_bytes() for stage in ("vae", "flow")]
    assert evaluate(runs, "vae", "flow") == 0
    assert first == [(runs / stage / "evaluation.json").read_bytes() for stage in ("vae", "flow")]

    assert json.loads(first[0])["data"]["samples"] == json.loads(first[1])["data"]["samples"] < 30
    vae, flow = found(runs / "vae"), found(runs / "flow")
    for name in ("l1", "psnr", "ssim", "ms_ssim"):
        measure = vae["reconstruction", name]
        assert measure["low"] < measure["value"] < measure["high"]
        assert measure["count"] == vae["reconstruction", "psnr"]["count"] < 30
    assert vae["reconstruction", "reconstruction_fid"]["value"] > 0
    assert vae["latents", "kl"]["value"] > 0
    assert {"velocity_loss", "caption_gain"} <= {name for group, name in flow if group == "velocity"}
    assert flow["samples", "kid"]["count"] == 20  # 5 captions × 4
    assert flow["samples", "category"]["value"] == 1  # of one category alone
    assert flow["photographs", "kid"]["value"] < flow["samples", "kid"]["value"]
    assert "| PSNR ↑ |" in table
    grid = Image.open(runs / "flow/evaluation.png")
    assert grid.width > 4 * 16


def test_what_is_measured_can_be_chosen(runs: Path, pictures: Path) -> None:
    shutil.rmtree(runs / "flow" / "config.yaml", ignore_errors=True)
    options = ("--only", "velocity", "--data", str(pictures), "--count", "8")
    assert evaluate(runs, "flow", options=options) == 0
    assert {group for group, _ in found(runs / "flow")} == {"velocity"}
    assert found(runs / "flow")["velocity", "velocity_loss"]["count"] == 8


@pytest.mark.parametrize(
    ("names", "options", "message"),
    [
        (["vae"], ("--only", "samples"), "is a VAE"),
        (["flow"], ("--only", "captions"), "add --data shapes"),
        (["vae"], ("--count", "0"), "--count is 0"),
        (["vae"], ("--features", "resnet"), "features=resnet"),
        (["vae"], ("--data", "nowhere"), "nowhere"),
        (["none"], (), "There is no"),
    ],
)
def test_mistakes_are_one_line(
    runs: Path, names: list[str], options: tuple[str, ...], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert evaluate(runs, *names, options=options) == 1
    error = capsys.readouterr().err
    assert message in error
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    assert not list(runs.glob("*/evaluation.json"))


def test_a_model_without_its_run_is_told_to_name_images(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (runs / "vae/config.yaml").unlink()
    assert evaluate(runs, "vae") == 1
    assert "--data" in capsys.readouterr().err


def test_intervals_show_the_digits_that_they_leave() -> None:
    assert interval({"value": 20.7412, "low": 20.41, "high": 21.09}) == "20.74 (20.41 to 21.09)"
    assert interval({"value": 7.0, "low": None, "high": None}) == "7"
