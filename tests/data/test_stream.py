import itertools
import multiprocessing
import os
import pickle
import signal
from collections import Counter

import pytest
import torch

from fluxflow.data.buckets import Buckets
from fluxflow.data.folder import FolderReader
from fluxflow.data.records import Part, Place
from fluxflow.data.shards import ShardReader
from fluxflow.data.stream import StreamLoader, TrainStream, ValidationStream, collate, outlive_signals
from fluxflow.data.transforms import Transform
from fluxflow.errors import DataError

RANDOM = Transform(Buckets(8, 1), crop="random", flip=0.5)


@pytest.fixture(params=["shards", "folder"])
def reader(request, make_shards, make_folder):
    source = make_shards(5, 7) if request.param == "shards" else make_folder(12)
    reader = (ShardReader if request.param == "shards" else FolderReader)(str(source))
    reader.open()
    return reader


def take(stream, count: int) -> list[dict]:
    return list(itertools.islice(stream, count))


def keys(examples) -> list[str]:
    return [example["key"] for example in examples]


def test_training_shows_every_sample_once_a_pass_without_end(reader):
    shown = keys(take(TrainStream(reader, Part(), RANDOM, seed=0), 36))
    passes = [shown[:12], shown[12:24], shown[24:]]
    assert all(Counter(p) == Counter(passes[0]) and len(set(p)) == 12 for p in passes)
    assert passes[0] != passes[1]


def test_training_is_a_function_of_seed_and_start_step(reader):
    def stream(seed: int, start_step: int) -> list[dict]:
        return take(TrainStream(reader, Part(), RANDOM, seed, start_step), 24)

    first, again = stream(0, 0), stream(0, 0)
    assert all(a["key"] == b["key"] and torch.equal(a["image"], b["image"]) for a, b in zip(first, again, strict=True))
    assert keys(stream(1, 0)) != keys(first)
    assert keys(stream(0, 5)) != keys(first)


def test_crop_and_flip_change_from_pass_to_pass_but_not_with_the_place(reader):
    whole = take(TrainStream(reader, Part(), RANDOM, seed=0), 24)
    halves = [e for rank in (0, 1) for e in take(TrainStream(reader, Part(), RANDOM, 0, place=Place(rank, 2)), 6)]
    first = {e["key"]: e["image"] for e in whole[:12]}
    assert sum(torch.equal(first[e["key"]], e["image"]) for e in whole[12:]) < 6
    if isinstance(reader, FolderReader):  # of two shards, a rank may read the shorter one and be in its second pass
        assert all(torch.equal(first[e["key"]], e["image"]) for e in halves)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_validation_batches_do_not_depend_on_the_workers(reader, workers):
    stream = ValidationStream(reader, Part(), Transform(Buckets(8, 1)), batch_size=2)
    loader = StreamLoader(stream, batch_size=2, num_workers=workers, collate_fn=collate)
    expected = [record.key for record in reader.ordered(Part())]
    for _ in range(2):
        assert [batch["key"] for batch in loader] == [expected[n : n + 2] for n in range(0, 12, 2)]


def test_validation_is_split_over_ranks_and_limited(reader):
    def shares(ranks: int, limit: int | None) -> list[list[str]]:
        transform = Transform(Buckets(8, 1))
        streams = [ValidationStream(reader, Part(), transform, 2, limit, Place(rank, ranks)) for rank in range(ranks)]
        return [keys(stream) for stream in streams]

    whole = shares(1, None)[0]
    assert sorted(itertools.chain(*shares(3, None))) == sorted(whole)
    assert shares(2, 7) == [whole[0:7:2], whole[1:7:2]]


@pytest.mark.parametrize("workers", [0, 2])
def test_training_loader_fills_every_batch(reader, workers):
    loader = StreamLoader(TrainStream(reader, Part(), RANDOM, 0), batch_size=5, num_workers=workers, collate_fn=collate)
    batches = take(loader, 6)
    assert {tuple(batch["image"].shape) for batch in batches} == {(5, 3, 8, 8)}
    assert batches[0]["image"].dtype == torch.uint8
    assert all("caption " in caption for batch in batches for caption in batch["caption"])
    with pytest.raises(TypeError):
        len(loader)


def test_streams_can_be_sent_to_spawned_workers(reader):
    stream = TrainStream(reader, Part(0.1), RANDOM, seed=3)
    assert keys(take(pickle.loads(pickle.dumps(stream)), 12)) == keys(take(stream, 12))


def test_bad_pictures_are_skipped(make_shards):
    reader = ShardReader(str(make_shards(10, bad=frozenset({2, 5}))))
    reader.open()
    assert sorted(keys(take(TrainStream(reader, Part(), RANDOM, 0), 8))) == [f"s{n}" for n in (0, 1, 3, 4, 6, 7, 8, 9)]
    assert len(list(ValidationStream(reader, Part(), RANDOM, 4))) == 8


@pytest.mark.parametrize("workers", [0, 1])
def test_source_of_bad_pictures_ends_the_run_in_one_sentence(make_shards, workers):
    reader = ShardReader(str(make_shards(4, bad=frozenset(range(4)))))
    reader.open()
    loader = StreamLoader(TrainStream(reader, Part(), RANDOM, 0), batch_size=2, num_workers=workers, collate_fn=collate)
    with pytest.raises(DataError, match=r"^shards .*: 4 of 4 samples cannot be used: 4 not a JPEG[^\n]*$"):
        next(iter(loader))


def test_more_places_than_samples_are_refused(reader):
    with pytest.raises(DataError, match="no training sample for one of 20 ranks × workers"):
        take(TrainStream(reader, Part(), RANDOM, 0, place=Place(19, 20)), 1)


def test_empty_held_out_part_is_refused(reader):
    with pytest.raises(DataError, match=r"raise data\.val_fraction"):
        list(ValidationStream(reader, Part(1e-9, held_out=True), RANDOM, 2))


def _wait_as_a_worker(ready, done) -> None:
    outlive_signals(0)
    ready.set()
    done.wait(10)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_worker_outlives_the_signals_of_its_group(number):
    context = multiprocessing.get_context("fork")
    ready, done = context.Event(), context.Event()
    worker = context.Process(target=_wait_as_a_worker, args=(ready, done))
    worker.start()
    assert ready.wait(10)
    os.kill(worker.pid, number)
    worker.join(0.3)
    assert worker.is_alive()
    done.set()
    worker.join(10)
    assert worker.exitcode == 0
