"""A stream that is stopped and resumed is the stream that was not, to the last bit."""

import itertools
from typing import Any

import pytest
import torch
import torch.distributed

from fluxflow.data import DataModule
from fluxflow.data.folder import FolderReader
from fluxflow.data.shards import ShardReader
from tests.data.sources import TwoSizes

SOURCES = ("shards", "folder", "few shards", "mixture")
Batch = dict[str, Any]


@pytest.fixture
def make(request, make_shards, make_folder, monkeypatch):
    """Makes the DataModule of a rank; batches of two sizes, of which one is rare."""

    paths = {}

    def path(kind, *sizes: int, **options) -> str:
        if (kind, sizes) not in paths:
            paths[kind, sizes] = str(kind(*sizes, **options))
        return paths[kind, sizes]

    def module(source: str, rank: int = 0, ranks: int = 1, **options) -> DataModule:
        monkeypatch.setattr(torch.distributed, "is_initialized", lambda: ranks > 1)
        monkeypatch.setattr(torch.distributed, "get_world_size", lambda: ranks)
        monkeypatch.setattr(torch.distributed, "get_rank", lambda: rank)
        numbers = {"image_size": 8, "batch_size": 3, "val_fraction": 0.1, "shuffle_shards": 2} | options
        if source == "folder":
            data = DataModule(FolderReader, path(make_folder, 29), **numbers)
        elif source == "mixture":
            both = {"a": {"path": path(make_shards, 6, 7, 5), "weight": 2},
                    "b": {"path": path(make_shards, 9, folder="b")}}  # fmt: skip
            data = DataModule(ShardReader, sources=both, val=both["b"]["path"], **numbers)
        else:
            sizes = (13, 16) if source == "few shards" else (5, 7, 4, 6, 5, 3, 8)
            data = DataModule(ShardReader, path(make_shards, *sizes), **numbers)
        data.train_transform = TwoSizes()
        data.setup()
        return data

    return module


def take(data: DataModule, count: int) -> list[Batch]:
    return list(itertools.islice(data.train_dataloader(), count))


def resumed(data: DataModule, states: list[dict[str, Any]]) -> DataModule:
    """A fresh DataModule that a checkpoint with a state of each rank has been loaded into."""
    data.load_state_dict(data.state_dict() | data._identity() | {"ranks": states})
    return data


def same(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(
        a["key"] == b["key"] and a["caption"] == b["caption"] and torch.equal(a["image"], b["image"])
        and a["state"] == b["state"] for a, b in zip(found, expected)
    )  # fmt: skip


def check(make, source: str, workers: int, ranks: int, stops: list[int], caplog) -> None:
    length, ahead = max(stops) + 5, 4
    whole = []
    for rank in range(ranks):
        whole.append(take(make(source, rank, ranks, num_workers=workers), length + ahead))
    assert any(state["pending"] for batch in whole[0] for state in batch["state"]["workers"] if state)
    assert max(c["pass"] for state in whole[0][-1]["state"]["workers"] for c in state["cursors"].values()) >= 1
    for stop in stops:
        for rank in range(ranks):
            first = [share[stop - 1]["state"] for share in whole] if stop else [{}] * ranks
            data = make(source, rank, ranks, num_workers=workers)
            once = take(resumed(data, first) if stop else data, 3)
            assert same(once, whole[rank][stop : stop + 3]), (stop, rank)
            second = [share[stop + 2]["state"] for share in whole]  # the same as of those that were resumed
            twice = take(resumed(make(source, rank, ranks, num_workers=workers), second), ahead)
            assert same(twice, whole[rank][stop + 3 : stop + 3 + ahead]), (stop, rank)
    assert not caplog.records


@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("source", SOURCES)
def test_a_resumed_stream_is_the_uninterrupted_one(make, source, ranks, caplog):
    check(make, source, 0, ranks, [0, 1, 5, 9, 20], caplog)


@pytest.mark.parametrize(
    ("source", "workers", "ranks"),
    [("shards", 2, 2), ("shards", 3, 1), ("folder", 2, 1), ("few shards", 3, 1), ("mixture", 2, 1)],
)
def test_and_so_it_is_with_workers(make, source, workers, ranks, caplog):
    check(make, source, workers, ranks, [2, 11], caplog)


@pytest.mark.slow  # hundreds of worker processes
@pytest.mark.parametrize("ranks", [1, 2])
@pytest.mark.parametrize("workers", [0, 1, 2, 3])
@pytest.mark.parametrize("source", SOURCES)
def test_wherever_it_stops(make, source, workers, ranks, caplog):
    check(make, source, workers, ranks, [*range(0, 27, 1 if workers == 0 else 3)], caplog)
