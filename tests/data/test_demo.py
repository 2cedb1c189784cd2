"""The pictures that come with FluxFlow."""

from collections import Counter
from pathlib import Path

import fluxflow.data
from fluxflow.data import DataModule
from fluxflow.data.sources.records import Split, ordered
from fluxflow.data.sources.shards import demo_shards
from tests.data.sources import sized

FOLDER = Path(fluxflow.data.__file__).parent / "demo"


def read(split: str) -> list:
    reader = demo_shards(split)
    reader.open()
    return list(ordered(reader))


def test_counts_captions_and_disjoint_splits():
    train, val = read("train"), read("val")
    keys = {split: {record.key for record in records} for split, records in (("train", train), ("val", val))}
    assert (len(train), len(val)) == (2732, 221)
    assert (len(keys["train"]), len(keys["val"])) == (2732, 221)
    assert not keys["train"] & keys["val"]
    assert not {record.image for record in train} & {record.image for record in val}
    assert all(r.problem == "" and r.captions[0].startswith("a photo of") for r in train + val)
    known = {record.captions for record in train}
    assert sum(record.captions in known for record in val) == 180


def test_held_out_keys_are_those_of_the_hash():
    assert all(record.key in Split(0.07, held_out=True) for record in read("val"))


def test_size_and_licence():
    assert sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()) <= 10_000_000
    licence = (FOLDER / "LICENSE").read_text()
    assert "CC0-1.0" in licence.splitlines()[0] + licence.splitlines()[1]
    assert "clothing-dataset" in licence
    assert "python -m fluxflow.data.prepare" in (FOLDER / "README.md").read_text()


def test_batches_of_64_pixels():
    data = DataModule(demo_shards, "train", "val", **sized(64, crop="center", flip=0.0), batch_size=8)
    data.setup()
    batch = next(iter(data.train_dataloader()))
    assert batch["image"].shape == (8, 3, 64, 64)
    assert Counter(map(type, batch["caption"])) == {str: 8}
    assert sum(len(batch["key"]) for batch in data.val_dataloader()) == 221
