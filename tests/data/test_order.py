"""Nobody sees another's sample, everybody sees all once an epoch, and a state says where to go on."""

import itertools
from collections import Counter

import pytest

from fluxflow.data.sources.records import ALONE, Split, WorkerShard
from fluxflow.data.streaming.order import Cursor, Order
from fluxflow.errors import DataError
from tests.data.sources import Keys

SIZES = {"many": (7, 5, 6, 9, 3, 8, 7), "even": (6,) * 8, "one": (29,), "few": (9, 14), "tiny": (1, 1, 1, 12)}
WHOLE = Split()
GRIDS = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 4)]


def begin(
    reader: Keys, worker_shard: WorkerShard = ALONE, state=None, *, split: Split = WHOLE, seed: int = 0, blocks: int = 2
) -> Cursor:
    return Cursor(Order(reader, split, seed, worker_shard, blocks), state)


def take(cursor: Cursor, count: int) -> list[tuple[int, str]]:
    return [(epoch, f"{shard}-{index}") for epoch, shard, index in (cursor.draw() for _ in range(count))]


def epochs(cursor: Cursor, count: int) -> list[list[str]]:
    """The keys of the first epochs, each."""
    shown: list[list[str]] = [[] for _ in range(count)]
    while True:
        epoch, shard, index = cursor.draw()
        if epoch >= count:
            return shown
        shown[epoch].append(f"{shard}-{index}")


def workers(ranks: int, workers: int) -> list[WorkerShard]:
    return [WorkerShard(rank, ranks, worker, workers) for rank in range(ranks) for worker in range(workers)]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_an_epoch_shows_every_sample_once_over_all_workers(sizes, grid):
    shares = [epochs(begin(Keys(sizes), worker_shard), 3) for worker_shard in workers(*grid)]
    for epoch in range(3):
        shown = [share[epoch] for share in shares]
        assert Counter(itertools.chain(*shown)) == Counter(Keys(sizes).all())
        if sizes != SIZES["tiny"]:
            assert all(shown), "somebody starves"


def test_shares_differ_by_the_sizes_of_shards_alone():
    shares = [len(epochs(begin(Keys((6,) * 7), worker_shard), 1)[0]) for worker_shard in workers(1, 3)]
    assert shares == [14, 14, 14]


def test_epochs_and_seeds_differ_and_repeat():
    reader = Keys((10, 10, 10))
    first, second = epochs(begin(reader), 2)
    assert epochs(begin(reader), 1) == [first]
    assert len({tuple(order) for order in (first, second, epochs(begin(reader, seed=1), 1)[0], reader.all())}) == 4


def test_samples_of_a_block_are_mixed_and_few_shards_open():
    reader = Keys((20,) * 6)
    order = epochs(begin(reader, blocks=3), 1)[0]
    halves = [{key.split("-")[0] for key in half} for half in (order[:60], order[60:])]
    assert all(len(half) == 3 for half in halves)
    assert not halves[0] & halves[1]
    assert len({key.split("-")[0] for key in order[:20]}) == 3
    assert reader.most <= 4


def test_splits_are_disjoint_and_complete():
    reader = Keys((60, 40))
    rest, held_out = (set(epochs(begin(reader, split=Split(0.2, side)), 1)[0]) for side in (False, True))
    assert rest
    assert held_out
    assert not rest & held_out
    assert sorted(rest | held_out) == sorted(reader.all())


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("worker_shard", [ALONE, WorkerShard(1, 2, 0, 2)], ids=["alone", "of four"])
def test_a_state_leads_to_the_next_sample(sizes, worker_shard):
    whole = take(begin(Keys(sizes), worker_shard), 70)
    for stop in range(0, 60):
        before = begin(Keys(sizes), worker_shard)
        take(before, stop)
        assert take(begin(Keys(sizes), worker_shard, before.state()), 10) == whole[stop : stop + 10]


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.99, 1.0, 2.45])
@pytest.mark.parametrize("grids", [((1, 1), (1, 4)), ((2, 2), (1, 3)), ((1, 3), (2, 4)), ((1, 2), (1, 5))], ids=str)
def test_other_workers_go_on_at_the_same_fraction(progress, grids):
    reader = Keys((2,) * 200)

    def left(grid: tuple[int, int]) -> Counter[str]:
        """What is still to come of the epoch."""
        found: Counter[str] = Counter()
        for worker_shard in workers(*grid):
            cursor = begin(reader, worker_shard, {"progress": progress})
            while True:
                epoch, shard, index = cursor.draw()
                if epoch > int(progress):
                    break
                found[f"{shard}-{index}"] += 1
        return found

    there, here = left(grids[0]), left(grids[1])
    assert max(here.values(), default=1) == 1
    assert abs(sum(here.values()) - round((1 - progress % 1) * 400)) <= 8  # a sample a worker
    in_work = [2 * 2 * grid[0] * grid[1] for grid in grids]  # samples of the blocks that all workers have begun
    assert len(here.keys() ^ there.keys()) <= sum(in_work) + 16


def test_progress_is_what_was_shown():
    sizes = (10,) * 7
    for worker_shard in workers(1, 3):
        cursor = begin(Keys(sizes), worker_shard)
        for drawn in range(1, 50):
            cursor.draw()
            assert cursor.state()["progress"] == pytest.approx(drawn * 3 / 70, abs=0.08)


def test_more_workers_than_samples_are_refused():
    with pytest.raises(DataError, match="no training sample for one of 20 ranks × workers"):
        begin(Keys((5, 7)), WorkerShard(19, 20)).draw()
