import pytest

from fluxflow.data.sources.records import Split, WorkerShard, sample_key, unique


def test_worker_shards_are_numbered_without_gaps():
    shards = [WorkerShard(rank, 3, worker, 2) for rank in range(3) for worker in range(2)]
    assert [shard.index for shard in shards] == list(range(6))
    assert {shard.count for shard in shards} == {6}


def test_splits_are_complementary_and_have_their_share():
    keys = [f"key {n}" for n in range(5000)]
    rest, held_out = Split(0.1), Split(0.1, held_out=True)
    assert all((key in rest) != (key in held_out) for key in keys)
    assert 400 < sum(key in held_out for key in keys) < 600
    assert all(key in Split() for key in keys)


def test_hash_never_changes():
    # a picture that moved from one split to the other between versions would leak
    assert [n for n in range(60) if f"{n:08d}" in Split(0.1, held_out=True)] == HELD_OUT


HELD_OUT = [0, 6, 20, 34, 35]


@pytest.mark.parametrize(("stem", "key"), [("a", "a"), ("a.b/c.d", "a_b/c_d"), ("__x__/y", "x__/y"), ("...", "_")])
def test_keys_hold_no_dots(stem, key):
    assert sample_key(stem) == key


def test_unique_numbers_what_is_taken():
    taken: set[str] = set()
    assert [unique(key, taken) for key in ("a", "a", "b", "a")] == ["a", "a-2", "b", "a-3"]
