import itertools
import os
import pickle
import sys
from collections import Counter

import pytest
import torch

from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import Split, WorkerShard, ordered
from fluxflow.data.sources.shards import ShardReader
from fluxflow.data.streaming.loader import Loader, begin_worker, workers_for
from fluxflow.data.streaming.rejections import SampleCounts
from fluxflow.data.streaming.streams import Source, TrainStream, ValidationStream
from fluxflow.errors import DataError
from tests.data.sources import Keys, Numbers, TwoSizes

WHOLE = Split()


@pytest.fixture(params=["shards", "folder"])
def reader(request, make_shards, make_folder):
    source = make_shards(5, 7) if request.param == "shards" else make_folder(12)
    reader = (ShardReader if request.param == "shards" else FolderReader)(str(source))
    reader.open()
    return reader


def train(reader, *, split=WHOLE, batch_size=4, seed=0, **options) -> TrainStream:
    return TrainStream({"train": Source(reader)}, split, TwoSizes(), batch_size, seed, **options)


def batches(stream, count: int | None = None, workers: int = 0) -> list[dict]:
    return list(itertools.islice(Loader(stream, workers, SampleCounts(1.0)), count))


def keys(batches: list[dict]) -> list[str]:
    return [key for batch in batches for key in batch["key"]]


@pytest.mark.parametrize("workers", [0, 2])
def test_every_batch_is_full_and_of_one_size(reader, workers):
    stream = train(reader, worker_shard=WorkerShard(workers=max(workers, 1)))
    found = batches(stream, 30, workers)
    shapes = Counter(tuple(batch["image"].shape) for batch in found)
    assert set(shapes) == {(4, 3, 8, 8), (4, 3, 8, 12)}  # one key in twelve or six waits for others, over epochs
    assert found[0]["image"].dtype == torch.uint8
    assert all("caption " in caption for batch in found for caption in batch["caption"])
    with pytest.raises(TypeError):
        len(Loader(stream, 0, SampleCounts()))  # pyright: ignore[reportArgumentType]


def test_rare_sizes_are_shown_as_often_as_others(reader):
    shown = Counter(keys(batches(train(reader), 12 * 8)))
    assert len(shown) == 12
    assert max(shown.values()) - min(shown.values()) <= 4  # a batch of the rare ones is still waiting


def test_crop_and_flip_change_from_epoch_to_epoch_but_not_with_the_worker(reader):
    def by_key(batches: list[dict]) -> dict[str, torch.Tensor]:
        return {key: image for batch in batches for key, image in zip(batch["key"], batch["image"], strict=True)}

    whole = batches(train(reader, batch_size=1), 24)
    first, second = by_key(whole[:12]), by_key(whole[12:])
    halves = {**by_key(batches(train(reader, batch_size=1, worker_shard=WorkerShard(0, 2)), 5)),
              **by_key(batches(train(reader, batch_size=1, worker_shard=WorkerShard(1, 2)), 5))}  # fmt: skip
    assert sum(torch.equal(first[key], second[key]) for key in first) < 6
    assert all(torch.equal(first[key], image) for key, image in halves.items())


def test_the_mixture_has_its_weights_at_every_length():
    sources = {"a": Source(Keys((50,)), 3.0), "b": Source(Keys((6, 6)), 1.0), "c": Source(Keys((10,)), 0.5)}
    for length in (9, 90, 900):
        stream = TrainStream(sources, Split(), Numbers(), 1, 0, worker_shard=WorkerShard(1, 2))
        draws = list(itertools.islice(iter(stream), length))
        state = draws[-1].state
        assert state["draws"] == length
        counts = {name: cursor["progress"] * len(sources[name].reader.all()) / 2
                  for name, cursor in state["cursors"].items()}  # fmt: skip
        for name, share in (("a", 6 / 9), ("b", 2 / 9), ("c", 1 / 9)):
            assert counts[name] == pytest.approx(share * length, abs=4), name


def test_memory_is_bounded_by_a_batch_a_size():
    reader = Keys((40,) * 30)
    stream = TrainStream({"train": Source(reader)}, Split(), Numbers(sizes=10), 16, 0, shuffle_shards=3)
    most = max(len(item.state["pending"]) for item in itertools.islice(iter(stream), 500))
    assert 30 < most <= 10 * 15
    assert reader.most <= 4


@pytest.mark.parametrize("workers", [0, 1, 2, 3])
def test_validation_shows_every_sample_once_whatever_the_workers(reader, workers):
    stream = ValidationStream(reader, Split(), TwoSizes(), batch_size=2)
    loader = Loader(stream, workers, SampleCounts(), persistent=True)
    expected = [batch["key"] for batch in Loader(stream, 0, SampleCounts())]
    assert sorted(itertools.chain(*expected)) == sorted(record.key for record in ordered(reader))
    for _ in range(2):
        found = list(loader)
        assert [batch["key"] for batch in found] == expected
        assert all(len({key.endswith("3") for key in batch["key"]}) == 1 for batch in found)
        assert "state" not in found[0]


def test_validation_is_split_over_ranks_and_limited(reader):
    def share(limit: int | None, rank: int = 0, ranks: int = 1) -> list[str]:
        return sorted(keys(batches(ValidationStream(reader, Split(), TwoSizes(), 2, limit, WorkerShard(rank, ranks)))))

    in_order = [record.key for record in ordered(reader)]
    assert sorted(itertools.chain(*(share(None, rank, 3) for rank in range(3)))) == sorted(in_order)
    assert share(7, 0, 2) == sorted(in_order[0:7:2])
    assert share(7, 1, 2) == sorted(in_order[1:7:2])


@pytest.mark.parametrize("workers", [0, 2])
def test_bad_pictures_of_validation_are_counted_once(make_shards, workers):
    reader = ShardReader(str(make_shards(10, 10, bad=frozenset({2, 5, 13}))))
    reader.open()
    counts = SampleCounts()
    found = keys(list(Loader(ValidationStream(reader, Split(), TwoSizes(), 4), workers, counts)))
    assert sorted(found) == sorted(f"s{n}" for n in range(20) if n not in {2, 5, 13})
    assert (counts.seen, counts.bad, counts.reasons.total()) == (20, 3, 3)


def test_streams_can_be_sent_to_spawned_workers(reader):
    stream = train(reader, split=Split(0.1), seed=3)
    assert keys(batches(pickle.loads(pickle.dumps(stream)), 12)) == keys(batches(stream, 12))


def test_bad_pictures_are_skipped(make_shards):
    reader = ShardReader(str(make_shards(10, bad=frozenset({2, 5}))))
    reader.open()
    assert set(keys(batches(train(reader, batch_size=1), 24))) == {f"s{n}" for n in (0, 1, 3, 4, 6, 7, 8, 9)}


@pytest.mark.parametrize("workers", [0, 1])
def test_source_of_bad_pictures_ends_the_run_in_one_sentence(make_shards, workers):
    reader = ShardReader(str(make_shards(4, bad=frozenset(range(4)))))
    reader.open()
    sentence = r"^200 of 200 samples that were read cannot be used: 4 not a JPEG[^\n]*max_bad_fraction=0.01[^\n]*$"
    with pytest.raises(DataError, match=sentence):
        next(iter(Loader(train(reader), workers, SampleCounts())))
    with pytest.raises(DataError, match=r"^4 of 4 samples .* 4 not a JPEG[^\n]*; none is left to validate on"):
        next(iter(Loader(ValidationStream(reader, Split(), TwoSizes(), 4), workers, SampleCounts())))


@pytest.mark.parametrize("workers", [0, 1])
def test_more_workers_than_samples_are_refused(reader, workers):
    with pytest.raises(DataError, match=r"^[^\n]*no training sample for one of 20 ranks × workers[^\n]*$"):
        batches(train(reader, worker_shard=WorkerShard(19, 20)), 1, workers)


def test_empty_held_out_split_is_refused(reader):
    with pytest.raises(DataError, match=r"raise data\.val_fraction"):
        batches(ValidationStream(reader, Split(1e-9, held_out=True), TwoSizes(), 2))


def test_workers_share_the_cores_of_the_machine(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(6)))
    assert [workers_for(devices) for devices in (1, 2, 4, 8)] == [6, 3, 1, 1]
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(64)))
    assert workers_for(1) == 8


def test_a_worker_keeps_opencv_to_its_own_thread(monkeypatch):
    threads: list[int] = []
    monkeypatch.setitem(sys.modules, "cv2", type("OpenCV", (), {"setNumThreads": threads.append}))
    begin_worker(0)
    assert threads == [0]  # OpenCV's word for the thread that calls it


class Threads(Numbers):
    def __call__(self, record, size, rng):
        return super().__call__(record, size, rng) | {"threads": torch.get_num_threads()}


def test_a_worker_keeps_torch_to_one_thread():
    stream = TrainStream({"train": Source(Keys((9,)))}, Split(), Threads(), 2, 0)
    assert batches(stream, 1, workers=1)[0]["threads"] == [1, 1]
