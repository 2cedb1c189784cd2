"""Shards are WebDataset's: its own reader reads ours, and our reader reads its own."""

import json
from pathlib import Path

import webdataset

from fluxflow.data.prepare.__main__ import main as prepare
from fluxflow.data.sources.shards import ShardReader
from tests.data.conftest import encoded

CAPTIONS = {"a": ["a red dress"], "b/c": ["a blue coat", "a coat, grün"], "d_e": ["trousers"]}


def written_by_webdataset(folder: Path) -> None:
    folder.mkdir()
    with webdataset.ShardWriter(str(folder / "%05d.tar"), maxcount=2, verbose=0) as writer:
        for number, (key, captions) in enumerate(CAPTIONS.items()):
            text = {"txt": captions[0]} if len(captions) == 1 else {"json": {"captions": captions}}
            writer.write({"__key__": key, "png": encoded(number, (8, 8), "PNG"), **text})


def read(folder: Path) -> dict[str, tuple[bytes, list[str]]]:
    """By our reader."""
    reader = ShardReader(str(folder))
    reader.open()
    found = {}
    for number in range(reader.shard_count()):
        shard = reader.open_shard(number)
        for index in range(len(shard.keys)):
            record = shard.load(index)
            found[record.key.replace("/", "_")] = record.image, list(record.captions)
        shard.close()
    return found


def read_by_webdataset(folder: Path) -> dict[str, tuple[bytes, list[str]]]:
    found = {}
    for path in sorted(folder.rglob("*.tar")):
        for sample in webdataset.WebDataset(str(path), shardshuffle=False):
            text = [sample["txt"].decode()] if "txt" in sample else json.loads(sample["json"])["captions"]
            found[sample["__key__"].replace("/", "_")] = sample["png"], text
    return found


def test_both_read_what_webdataset_writes(tmp_path: Path) -> None:
    written_by_webdataset(tmp_path / "theirs")
    there = read_by_webdataset(tmp_path / "theirs")
    assert {name.replace("/", "_"): captions for name, captions in CAPTIONS.items()} == {
        name: captions for name, (_, captions) in there.items()
    }
    assert read(tmp_path / "theirs") == there


def test_both_read_what_prepare_writes(tmp_path: Path) -> None:
    written_by_webdataset(tmp_path / "theirs")
    there = read_by_webdataset(tmp_path / "theirs")
    assert prepare([str(tmp_path / "theirs"), str(tmp_path / "ours"), "--shard-samples", "2", "--min-size", "1"]) == 0
    assert read_by_webdataset(tmp_path / "ours") == read(tmp_path / "ours" / "train")
    assert sorted(read(tmp_path / "ours" / "train").values()) == sorted(there.values())
