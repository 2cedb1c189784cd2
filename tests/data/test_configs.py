"""The files of configs/data build a DataModule and restate each of its arguments that they set."""

from pathlib import Path

import pytest
from hydra.utils import instantiate
from omegaconf import OmegaConf

from fluxflow.data import DataModule

CONFIGS = Path(__file__).parents[2] / "configs" / "data"


@pytest.mark.parametrize(("name", "source"), [("demo", None), ("shards", "make_shards"), ("folder", "make_folder")])
def test_config_builds(name, source, request):
    group = OmegaConf.load(CONFIGS / f"{name}.yaml")
    config = OmegaConf.create({"seed": 7, "run_dir": "unused", "model": {"downscales": 2}, "data": group})
    if source is not None:
        config.data.train = str(request.getfixturevalue(source)(200))
        config.data.image_size, config.data.batch_size, config.data.num_workers = 8, 2, 0
    data = instantiate(config.data, _convert_="all")
    data.setup()
    assert isinstance(data, DataModule)
    assert data.seed == 7
    assert len(next(iter(data.train_dataloader()))["key"]) == config.data.batch_size
    assert next(iter(data.val_dataloader()))["image"].shape[-1] == config.data.image_size
    data.teardown()
