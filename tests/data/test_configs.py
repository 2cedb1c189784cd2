"""The files of configs/data build a DataModule and restate each of its arguments that they set."""

from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fluxflow.build import build
from fluxflow.data import DataModule

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


SOURCES = [("demo", None), ("shards", "make_shards"), ("folder", "make_folder"), ("latents", "make_cache")]


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_config_builds(name, source, request):
    given = {"seed": 7, "run_dir": "unused", "model": {"downscales": 2}}
    config = OmegaConf.create(given | {"data": OmegaConf.load(CONFIGS / f"{name}.yaml")})
    if source is not None:
        config.data.train = str(request.getfixturevalue(source)(200))
        config.data.update({"batch_size": 2, "num_workers": 0} | ({} if name == "latents" else {"image_size": 8}))
    data = build(config.data)
    data.setup()
    assert isinstance(data, DataModule)
    assert data.seed == 7
    assert len(next(iter(data.train_dataloader()))["key"]) == config.data.batch_size
    batch = next(iter(data.val_dataloader()))
    assert data.image_size == (64 if name == "demo" else 8)
    if name == "latents":
        assert batch["mean"].shape[-1] in (2, 3)
    else:
        assert batch["image"].shape[-1] == data.image_size
    data.teardown()
