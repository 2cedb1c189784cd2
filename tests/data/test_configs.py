"""The files of configs/data build a DataModule and restate each of its arguments that they set."""

import pytest

from fluxflow.commands.build import build
from fluxflow.data import DataModule
from tests.test_configs import composed

SOURCES = [
    ("demo", None),
    ("shapes", None),
    ("shards", "make_shards"),
    ("folder", "make_folder"),
    ("latents", "make_cache"),
]


@pytest.mark.parametrize(("name", "source"), SOURCES)
def test_config_builds(name, source, request):
    config = composed(f"data={name}", "seed=7", "model.downscales=2")
    if source is not None:
        config.data.train = str(request.getfixturevalue(source)(200))
        config.data.update({"batch_size": 2, "num_workers": 0} | ({} if name == "latents" else {"image_size": 8}))
    data = build(config.data)
    data.setup()
    assert isinstance(data, DataModule)
    assert data.seed == 7
    assert len(next(iter(data.train_dataloader()))["key"]) == config.data.batch_size
    batch = next(iter(data.val_dataloader()))
    assert data.image_size == (64 if source is None else 8)
    if name == "latents":
        assert batch["mean"].shape[-1] in (2, 3)
    else:
        assert batch["image"].shape[-1] == data.image_size
    data.teardown()
