"""Nonsense at every key of both configs: it works or is refused in one line, in bounded time, without a traceback.

An attempt goes as far as work would: the config is checked, its objects are built on tiny sizes, its data is opened.
"""

import copy
import math
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from PIL import Image

from fluxflow.checkpoint import save_model
from fluxflow.commands import build, configuration
from fluxflow.commands import hydra_app as commands
from fluxflow.commands.objects import CONFIGS, containers
from fluxflow.commands.sample import SampleConfig
from fluxflow.commands.sampling import sample
from tests import pipelines

NONSENSE = [
    None, "", " ", -1, 0, 1, 1.5, 10**6, 10**9, 2**70, -(2**70), math.inf, -math.inf, math.nan, True, False, "abc", "1",
    [], [1, [2]], ["a"], {}, {"a": 1}, "${undefined}", "${", "???", "é中😀", "/", "..", "x" * 5000, "a\0b", "\n",
    {"_target_": "os.system"}, {"_target_": "fluxflow.training.EMA"}, {"_target_": None}, [None],
]  # fmt: skip
SECONDS = 20  # of one attempt; most take milliseconds
TINY = [
    "model=tiny", "model.version=0.3.0", "model.vae_dim=8", "model.downscales=2",
    "model.attn_layers=1", "model.attn_heads=2",
    "model.feat_dim=16", "model.flow_layers=1", "model.flow_heads=2", "model.text_dim=16", "model.disc_base=4",
    "model.disc_depth=2", "text.pretrain_model=null",
    "+text.backbone={model_type: bert, hidden_size: 16, num_hidden_layers: 1, num_attention_heads: 2}",
]  # fmt: skip
CHOICES = [
    ("vae", "demo"), ("vae", "folder"), ("vae", "shards"), ("vae", "shapes"), ("flow", "demo"), ("flow", "latents"),
    ("encode", "folder"),
]  # fmt: skip


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A VAE, a flow and a folder of pictures."""
    folder = tmp_path_factory.mktemp("world")
    pipeline = pipelines.pipeline()
    pipeline.save_pretrained(folder / "flow/model")
    save_model(
        folder / "vae/model", compressor=pipeline.compressor, expander=pipeline.expander,
        latent_mean=torch.zeros(pipelines.D), latent_std=torch.ones(pipelines.D), sample_size=16,
    )  # fmt: skip
    (folder / "pictures").mkdir()
    for number in range(4):
        Image.new("RGB", (20, 20)).save(folder / f"pictures/{number}.png")
        (folder / f"pictures/{number}.txt").write_text("a caption")
    return folder


@pytest.fixture(autouse=True)
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(sys, "argv", ["train.py"])
    monkeypatch.setattr(torch.nn.Module, "compile", lambda self, **options: None)  # takes minutes


def training(stage: str, data: str, world: Path) -> tuple[DictConfig, DictConfig]:
    """A config that works and its reference."""
    command = "encode" if stage == "encode" else "train"
    groups = [f"data={data}"] if stage == "encode" else [f"stage={stage}", f"data={data}"]
    options = [*TINY, "run_dir=run", *([] if stage == "vae" else [f"vae={world}/vae"])]
    options += [] if data == "latents" else ["data.image_size=16"]
    options += [] if data in ("demo", "shapes") else [f"data.train={world}/pictures"]
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose(command, [*groups, *options]), compose(command, [*groups, "model=tiny"])


def attempt(config: DictConfig, reference: DictConfig) -> None:
    plain = build.checked(config, reference)
    if "encoder" in plain:
        build.build(config.trainer)
        build.build(config.encoder)
        build.build(config.data).setup()
    else:
        build.build_training(config).data.setup()


def refusal(action: Callable[[], Any]) -> str | None:
    """The line with which a command refuses what `action` does; None for success."""
    start, code = time.monotonic(), None
    try:
        commands.run(lambda: action() and None)
    except SystemExit as stop:
        code = stop.code
    finally:
        os.environ["HYDRA_FULL_ERROR"] = "0"  # which the command has set
    assert time.monotonic() - start < SECONDS
    if code is not None:
        assert isinstance(code, str)
        assert code.startswith("error: ")
        assert "\n" not in code
    return code


def changed(config: dict[str, Any], key: str, value: Any) -> dict[str, Any]:
    config = copy.deepcopy(config)
    *parents, name = key.split(".")
    node = config
    for parent in parents:
        node = node[parent]
    node[name] = value
    return config


def try_training(world: Path, stage: str, data: str, values: Callable[[int], list[Any]]) -> None:
    config, reference = training(stage, data, world)
    plain = containers(config)
    assert refusal(lambda: attempt(config, reference)) is None or data == "shards" or data == "latents"
    for number, key in enumerate(configuration.dotted(plain)):
        for value in values(number):
            try:
                made = OmegaConf.create(changed(plain, key, value))
            except OmegaConfBaseException:  # no config can hold it
                continue
            try:
                refusal(lambda made=made: attempt(made, reference))
            except BaseException as error:
                raise AssertionError(f"stage={stage} data={data} {key}={str(value)[:100]!r}") from error


@pytest.mark.parametrize(("stage", "data"), [("vae", "folder"), ("encode", "folder")])
def test_some_nonsense_at_every_key_of_a_training(world: Path, stage: str, data: str) -> None:
    """Other values at each key and choice."""
    offset = CHOICES.index((stage, data))
    try_training(world, stage, data, lambda number: NONSENSE[(number * 5 + offset) % len(NONSENSE) :][:1])


@pytest.mark.slow
@pytest.mark.parametrize(("stage", "data"), CHOICES)
def test_much_nonsense_at_every_key_of_a_training(world: Path, stage: str, data: str) -> None:
    try_training(world, stage, data, lambda number: NONSENSE[number % 6 :: 6])


@pytest.mark.parametrize("run", ["flow", "vae"])
def test_some_nonsense_at_every_key_of_sampling(world: Path, run: str) -> None:
    try_sampling(world, run, lambda number: NONSENSE[number % 7 :: 7])


@pytest.mark.slow
@pytest.mark.parametrize("run", ["flow", "vae"])
def test_all_nonsense_at_every_key_of_sampling(world: Path, run: str) -> None:
    try_sampling(world, run, lambda number: NONSENSE)


def try_sampling(world: Path, run: str, values: Callable[[int], list[Any]]) -> None:
    loaded = containers(OmegaConf.load(CONFIGS / "sample.yaml"))
    config = {key: value for key, value in loaded.items() if key not in ("defaults", "hydra")}
    config |= {"run": str(world / run), "out": "drawn", "steps": 1, "prompts": ["a"], "seeds": [0], "device": "cpu"}
    config |= {"images": str(world / "pictures"), "count": 1}
    assert refusal(lambda: sample(SampleConfig.from_config(config))) is None
    for number, key in enumerate(config):
        for value in values(number):
            try:
                refusal(lambda made=config | {key: value}: sample(SampleConfig.from_config(made)))
            except BaseException as error:
                raise AssertionError(f"{key}={str(value)[:100]!r}") from error
