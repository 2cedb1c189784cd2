"""A stream that is stopped and resumed is the stream that was not, to the last bit."""

import itertools
from collections import Counter
from typing import Any

import pytest
import torch
import torch.distributed

from fluxflow.data import DataModule, LatentDataModule
from fluxflow.data.latents.cache import LatentTransform
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.shards import ShardReader
from tests.data.sources import TwoSizes

SOURCES = ("shards", "folder", "few shards", "mixture", "latents")
Batch = dict[str, Any]


@pytest.fixture
def make(request, make_shards, make_folder, make_cache, monkeypatch):
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
        numbers = {"batch_size": 3, "shuffle_shards": 2} | options
        if source == "latents":
            transform = LatentTransform(0.5, "random")
            data = LatentDataModule(path(make_cache, 5, 7, 4, 6, 5, 3, 8), transform=transform, **numbers)
            data.setup()
            return data
        numbers = {"image_size": 8, "transform": TwoSizes(), "val_fraction": 0.1} | numbers
        if source == "folder":
            data = DataModule(FolderReader, path(make_folder, 29), **numbers)
        elif source == "mixture":
            both = {"a": {"path": path(make_shards, 6, 7, 5), "weight": 2},
                    "b": {"path": path(make_shards, 9, folder="b")}}  # fmt: skip
            data = DataModule(ShardReader, sources=both, val=both["b"]["path"], **numbers)
        else:
            sizes = (13, 16) if source == "few shards" else (5, 7, 4, 6, 5, 3, 8)
            data = DataModule(ShardReader, path(make_shards, *sizes), **numbers)
        data.setup()
        return data

    return module


def take(data: DataModule, count: int) -> list[Batch]:
    batches = list(itertools.islice(data.train_dataloader(), count))
    data.teardown()
    return batches


def resumed(data: DataModule, states: list[dict[str, Any]]) -> DataModule:
    """A fresh DataModule that a checkpoint with a state of each rank has been loaded into."""
    data.load_state_dict(data._identity() | {"ranks": states})
    return data


def same(found: list[Batch], expected: list[Batch]) -> bool:
    return len(found) == len(expected) and all(
        a.keys() == b.keys()
        and all(torch.equal(a[n], b[n]) if isinstance(a[n], torch.Tensor) else a[n] == b[n] for n in a)
        for a, b in zip(found, expected)
    )


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


def told(caplog) -> str:
    """The one warning of a resumed run."""
    assert len(caplog.records) == 1
    return caplog.records[0].message


@pytest.mark.parametrize(("before", "after"), [((1, 2), (1, 0)), ((1, 0), (2, 2)), ((2, 2), (1, 3))], ids=str)
@pytest.mark.parametrize("source", ["shards", "folder", "few shards"])
def test_other_ranks_and_workers_do_not_repeat_the_epoch(make, source, before, after, caplog):
    """Half of the epoch is shown, then the rest by others: nearly every sample comes, and nearly none twice."""
    options = {"batch_size": 1, "val_fraction": 1e-9}
    count = len(take_keys(make(source, **options), 60, epochs=1))
    shown, states = [], []
    for rank in range(before[0]):
        data = make(source, rank, before[0], num_workers=before[1], **options)
        batches = take(data, round(count / 2 / before[0]))
        shown += [key for batch in batches for key in batch["key"]]
        states.append(batches[-1]["state"])
    saved = data._identity() | {"ranks": states}
    for rank in range(after[0]):
        data = make(source, rank, after[0], num_workers=after[1], **options)
        data.load_state_dict(saved)
        shown += take_keys(data, 60, epochs=1)
    warning = told(caplog)
    assert f"ranks was {before[0]} and is {after[0]}" in warning or before[0] == after[0]
    repeated = sum(n - 1 for n in Counter(shown).values())
    assert repeated <= 0.35 * count, (repeated, count)  # blocks of small sources are large shares of them
    assert len(set(shown)) >= 0.65 * count


def take_keys(data: DataModule, most: int, epochs: int) -> list[str]:
    """The keys of the batches up to the end of an epoch."""
    found = []
    for batch in itertools.islice(data.train_dataloader(), most):
        if max(int(c["progress"]) for s in batch["state"]["workers"] if s for c in s["cursors"].values()) >= epochs:
            break
        found += batch["key"]
    data.teardown()
    return found


def test_samples_that_wait_survive_other_workers(make, caplog):
    states = [batch["state"] for batch in take(make("shards", num_workers=0), 9)]
    state = next(state for state in states if state["workers"][0]["pending"])
    pending = sorted(state["workers"][0]["pending"])
    data = make("shards", num_workers=2)
    data.load_state_dict(data._identity() | {"ranks": [state]} | {"settings": make("shards")._identity()["settings"]})
    data.train_dataloader()
    assert data._done is not None
    assert sorted(r for worker in data._done["workers"] for r in worker["pending"]) == pending
    assert "workers was 1 and is 2" in told(caplog)


def test_what_differs_is_named_and_the_run_goes_on(make, caplog):
    before = make("shards", num_workers=0)
    saved = before._identity() | {"ranks": [take(before, 12)[-1]["state"]]}
    cursor = saved["ranks"][0]["workers"][0]["cursors"]["train"]
    data = make("shards", batch_size=2, seed=7)
    data.load_state_dict(saved)
    batches = take(data, 3)
    assert "batch_size was 3 and is 2; seed" in told(caplog) or "seed was 0 and is 7" in told(caplog)
    assert len(batches[0]["key"]) == 2
    assert batches[0]["state"]["workers"][0]["cursors"]["train"]["pass"] == cursor["pass"]


def test_a_changed_source_begins_a_new_epoch(make, caplog):
    before = make("mixture", num_workers=0)
    saved = before._identity() | {"ranks": [take(before, 4)[-1]["state"]]}
    saved["sources"] = saved["sources"] | {"a": "another"}
    data = make("mixture", num_workers=0)
    data.load_state_dict(saved)
    cursors = take(data, 1)[0]["state"]["workers"][0]["cursors"]
    there = saved["ranks"][0]["workers"][0]["cursors"]
    assert there["a"]["pass"] == 0
    assert (cursors["a"]["pass"], cursors["a"]["block"]) == (1, 0)
    assert cursors["b"]["pass"] == there["b"]["pass"]
    assert "source a is not the same" in told(caplog)
    assert "a begins a new one" in told(caplog)


def test_the_number_of_workers_is_that_of_the_resumed_run_unless_it_is_given(make, caplog):
    before = make("shards", num_workers=2)
    saved = before._identity() | {"ranks": [take(before, 2)[-1]["state"]]}
    data = make("shards", num_workers=None)
    data.load_state_dict(saved)
    assert len(take(data, 1)[0]["state"]["workers"]) == 2
    assert not caplog.records
