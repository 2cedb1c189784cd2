import io
import json
import os
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from omegaconf import OmegaConf
from PIL import Image

from fluxflow.checkpoint import save_model
from fluxflow.commands.sample import SampleConfig
from fluxflow.commands.sampling import read_prompts, sample, slug
from fluxflow.errors import ConfigError, DataError
from fluxflow.image_grid import read_metadata
from fluxflow.models import FluxFlowProcessor
from tests import pipelines, published

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")  # diffusers under NumPy 2


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """outputs/flow/a and outputs/vae/a with tiny models."""
    folder = tmp_path_factory.mktemp("outputs")
    pipeline = pipelines.pipeline()
    pipeline.save_pretrained(folder / "flow/a/model")
    save_model(
        folder / "vae/a/model",
        compressor=pipeline.compressor,
        expander=pipeline.expander,
        latent_mean=torch.zeros(pipelines.D),
        latent_std=torch.ones(pipelines.D),
        sample_size=16,
    )
    return folder


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "garments.tar"
    with tarfile.open(path, "w") as tar:
        for key in "abc":
            picture = io.BytesIO()
            Image.new("RGB", (20, 24), "red").save(picture, "PNG")
            for suffix, content in (("png", picture.getvalue()), ("txt", f"garment {key}".encode())):
                member = tarfile.TarInfo(f"{key}.{suffix}")
                member.size = len(content)
                tar.addfile(member, io.BytesIO(content))
    return path


def drawing(run: Path, out: Path | None = None, **options: object) -> SampleConfig:
    config = OmegaConf.to_container(OmegaConf.load(ROOT / "configs/sample.yaml"))
    assert isinstance(config, dict)
    keys = {str(key): value for key, value in config.items() if key not in ("defaults", "hydra")}
    fast = {"prompts": ["a red dress", "blue/shirt"], "seeds": [3, 5], "steps": 2, "device": "cpu"}
    return SampleConfig.from_config({**keys, **fast, "run": str(run), "out": out and str(out), **options})


def pixels(path: Path) -> np.ndarray:
    return np.asarray(Image.open(path))


def test_a_flow_gives_a_grid_and_single_pictures_that_say_how(runs: Path, tmp_path: Path) -> None:
    path = sample(drawing(runs / "flow/a", tmp_path))
    assert path == tmp_path / "grid.png"
    singles = sorted(p.name for p in tmp_path.iterdir() if p != path)
    assert singles == [
        f"{prompt}_seed{seed}.png" for prompt in ("001_a-red-dress", "002_blue-shirt") for seed in (3, 5)
    ]
    data = read_metadata(tmp_path / "002_blue-shirt_seed5.png")
    assert data["prompt"] == "blue/shirt"
    assert [json.loads(data[key]) for key in ("seed", "steps", "guidance_scale")] == [5, 2, 5.0]
    assert data["model"] == str(runs / "flow/a")
    assert json.loads(read_metadata(path)["prompt"]) == ["a red dress", "blue/shirt"]
    assert Image.open(tmp_path / singles[0]).size == (16, 16)


def test_a_published_checkpoint_draws_beside_itself(tmp_path: Path) -> None:
    folder = published.write_folder(tmp_path / "theirs")
    words = published.write_tokenizer(tmp_path / "words")
    path = sample(drawing(folder, text_model=words, prompts=["a red dress"], seeds=[1], height=16, width=32))
    assert path == folder / "samples" / "grid.png"
    assert Image.open(folder / "samples" / "001_a-red-dress_seed1.png").size == (32, 16)


def test_the_vae_of_a_published_file_gives_reconstructions(shard: Path, tmp_path: Path) -> None:
    path = published.write(
        tmp_path / "vae.safetensors", published.state("0.7.0", components=["compressor", "expander"])
    )
    assert sample(drawing(path, images=str(shard), height=16)) == tmp_path / "samples" / "reconstructions.png"


def test_the_same_seed_gives_the_same_picture(runs: Path, tmp_path: Path) -> None:
    first, second = drawing(runs / "flow/a", tmp_path / "1"), drawing(runs / "flow/a", tmp_path / "2")
    sample(first)
    sample(second)
    for path in (tmp_path / "1").iterdir():
        assert np.array_equal(pixels(path), pixels(tmp_path / "2" / path.name))
    sample(replace(first, out=str(tmp_path / "3"), prompts=["blue/shirt"], seeds=[5]))
    together, alone = (pixels(tmp_path / name) for name in ("1/002_blue-shirt_seed5.png", "3/001_blue-shirt_seed5.png"))
    assert np.abs(together.astype(int) - alone).max() <= 1


def test_prompts_come_from_a_file(runs: Path, tmp_path: Path) -> None:
    file = tmp_path / "prompts.txt"
    file.write_text("a green shoe\n\n  a red dress \n", encoding="utf-8")
    assert read_prompts(file) == ["a green shoe", "a red dress"]
    sample(drawing(runs / "flow/a", tmp_path, prompts_file=str(file), seeds=[1]))
    assert (tmp_path / "001_a-green-shoe_seed1.png").is_file()
    file.write_text("\n")
    for path in (file, tmp_path / "missing.txt"):
        with pytest.raises(DataError, match="prompts_file"):
            read_prompts(path)


def test_a_vae_gives_reconstructions_in_the_run_folder(runs: Path, shard: Path, tmp_path: Path) -> None:
    shutil.copytree(runs / "vae/a", tmp_path / "run")
    path = sample(drawing(tmp_path / "run", images=str(shard)))
    assert path == tmp_path / "run/samples/reconstructions.png"
    assert (pixels(path) == (255, 0, 0)).all(axis=-1).sum() == 3 * 160**2  # the three originals, enlarged


def test_compile_is_for_the_flow(runs: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    calls = []
    monkeypatch.setattr(FluxFlowProcessor, "compile", lambda self, **options: calls.append(options))
    sample(drawing(runs / "flow/a", tmp_path, compile=True))
    assert calls == [{"dynamic": False, "mode": "default"}]


@pytest.mark.slow
def test_compiled_pictures_are_the_pictures(runs: Path, tmp_path: Path) -> None:
    plain, compiled = (pixels(sample(drawing(runs / "flow/a", tmp_path / str(c), compile=c))) for c in (False, True))
    assert np.abs(plain.astype(int) - compiled).max() <= 1


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"seeds": ["a"]}, "seeds must be a list of whole numbers"),
        ({"prompts": []}, "prompts is an empty list"),
        (
            {"prompts": [42, True]},
            r"must be a list of texts, not \[42, True\]\. In quotes it is: 'prompts=\[\"42\", \"True\"\]'",
        ),
        ({"prompts": None}, "prompts must be a list of texts"),
        ({"seeds": [2**64]}, r"seeds\[0\] must be at most 18446744073709551615"),
        ({"text_model": 2024}, "text_model must be text or null, not 2024"),
        ({"height": 10**9}, "height must be at most 16384"),
        ({"guidance": "high"}, "guidance must be a number, not 'high'"),
        ({"compile": "yes"}, "compile must be true or false, not 'yes'"),
        ({"tile": 63}, "tile must be at least 64, not 63"),
        ({"height": "tall"}, "height must be a whole number or null, not 'tall'"),
        ({"stps": 3}, "unknown key 'stps': did you mean 'steps'"),
    ],
)
def test_wrong_values_are_refused(runs: Path, options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        drawing(runs / "flow/a", **options)


def test_one_prompt_and_one_seed_need_no_list(runs: Path, tmp_path: Path) -> None:
    sample(drawing(runs / "flow/a", tmp_path, prompts="a red dress", seeds=3))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["001_a-red-dress_seed3.png", "grid.png"]


def test_the_folder_for_pictures_is_no_file(runs: Path, tmp_path: Path) -> None:
    (tmp_path / "out").touch()
    with pytest.raises(ConfigError, match="out is a file: give the folder"):
        sample(drawing(runs / "flow/a", tmp_path / "out"))


def test_a_device_that_is_not_here(runs: Path, tmp_path: Path) -> None:
    for device in ("cuda:99", "meta", "", "3", "hpu"):
        with pytest.raises(ConfigError, match=f"device={device} cannot be used here"):
            sample(drawing(runs / "flow/a", tmp_path, device=device))


def test_a_size_that_the_model_cannot_draw(runs: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="height 10 is not a multiple of 4"):
        sample(drawing(runs / "flow/a", tmp_path, height=10))


def test_file_names_of_prompts() -> None:
    assert slug("A red dress, 50% off / now!") == "a-red-dress-50-off-now"
    assert slug("../..") == "empty"
    assert len(slug("long " * 30)) <= 60


def run_sample(*overrides: str, code: str = "") -> subprocess.CompletedProcess:
    """Run sample.py, then `code` in the same process."""
    run = f"import runpy, sys; sys.argv[0] = 'sample.py'; runpy.run_path({str(ROOT / 'sample.py')!r}, None, '__main__')"
    command = [sys.executable, "-c", f"{run}; {code}", *overrides]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, text=True, env=environment)


def test_the_command_draws_without_lightning(runs: Path, tmp_path: Path) -> None:
    options = (f"run={runs / 'flow/a'}", 'prompts=["a red dress"]', "seeds=[0]", "steps=2", f"out={tmp_path}")
    done = run_sample(*options, code="print({'lightning', 'pytorch_lightning'} & set(sys.modules))")
    assert done.returncode == 0, done.stderr
    assert "[1/1] a red dress" in done.stdout
    assert done.stdout.endswith("set()\n")
    assert (tmp_path / "grid.png").is_file()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        ([], "No run or model folder is given"),
        (["run=nowhere"], "There is no nowhere"),
        (["stps=3"], "unknown key 'stps': did you mean 'steps'?"),
    ],
)
def test_mistakes_are_one_line_without_torch(overrides: list[str], message: str) -> None:
    done = run_sample(*overrides)
    assert done.returncode == 1
    assert message in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1


def test_pictures_of_which_none_can_be_read_are_named(runs: Path, tmp_path: Path) -> None:
    for key in "ab":
        (tmp_path / f"{key}.jpg").write_bytes(b"no picture")
        (tmp_path / f"{key}.txt").write_text("a garment")
    with pytest.raises(DataError, match=r"no image can be used; 2 of 2 .* cannot be used: .*a of"):
        sample(drawing(runs / "vae/a", tmp_path / "out", images=str(tmp_path), height=16))
    Image.new("RGB", (20, 24), "red").save(tmp_path / "a.jpg")
    assert sample(drawing(runs / "vae/a", tmp_path / "out", images=str(tmp_path), height=16)).exists()


@pytest.mark.parametrize("kind", ["folder", "shard"])
def test_reconstructions_need_no_captions(kind: str, runs: Path, tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    Image.new("RGB", (20, 24), "red").save(tmp_path / "in" / "a.jpg")
    if kind == "shard":
        with tarfile.open(tmp_path / "in" / "0.tar", "w") as tar:
            tar.add(tmp_path / "in" / "a.jpg", "a.jpg")
    assert sample(drawing(runs / "vae/a", tmp_path / "out", images=str(tmp_path / "in"), height=16)).exists()


def test_reconstructions_of_another_shape(runs: Path, shard: Path, tmp_path: Path) -> None:
    """The pictures are red: twice as many red pixels wide as high, an original and a bad copy of each."""
    path = sample(drawing(runs / "vae/a", tmp_path, images=str(shard), count=2, height=16, width=32))
    red = (pixels(path) == (255, 0, 0)).all(axis=-1)
    runs_of_red = [int(red.any(axis=axis).sum()) for axis in (1, 0)]
    assert runs_of_red[1] == 2 * 2 * runs_of_red[0]
