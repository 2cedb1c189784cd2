import itertools

import pytest

from fluxflow.data.prepare.plan import MIXED_SHARDS, make_plan
from fluxflow.data.prepare.scan import Options
from fluxflow.data.sources.records import Split


def scanned(*shards: list[str]) -> list[tuple[int, dict]]:
    return [(number, {"keys": keys, "sources": [f"{number}/{key}" for key in keys],
                      "problems": ["broken" if key.startswith("bad") else "" for key in keys],
                      "hashes": [0] * len(keys)}) for number, keys in enumerate(shards)]  # fmt: skip


def test_every_usable_sample_is_in_one_shard_of_its_split():
    source = scanned(*([f"{shard}-{n}" for n in range(30)] + ["bad"] for shard in range(40)))
    options = Options(shard_samples=100, val_fraction=0.2)
    plan = make_plan(source, options)
    planned = [sample for shard in plan.shards.values() for sample in shard]
    assert sorted(planned) == [(shard, n, f"{shard}-{n}") for shard in range(40) for n in range(30)]
    assert [len(plan.shards[name]) for name in sorted(plan.shards) if name.startswith("train")][:-1] == [100] * 9
    for name, shard in plan.shards.items():
        assert all((sample[2] in Split(0.2, held_out=True)) == name.startswith("val/") for sample in shard)
    assert plan.rejected[:2] == [{"source": "0/bad", "key": "bad", "reason": "broken"},
                                 {"source": "1/bad", "key": "bad-2", "reason": "broken"}]  # fmt: skip


def test_order_is_shuffled_within_a_bounded_number_of_shards():
    source = scanned(*([f"{shard}-{n}" for n in range(20)] for shard in range(3 * MIXED_SHARDS)))
    (shard,) = make_plan(source, Options(shard_samples=10_000)).shards.values()
    numbers = [number for number, _, _ in shard]
    blocks = [set(numbers[start : start + 20 * MIXED_SHARDS]) for start in range(0, len(numbers), 20 * MIXED_SHARDS)]
    assert [len(block) for block in blocks] == [MIXED_SHARDS] * 3
    assert sum(a == b for a, b in itertools.pairwise(numbers)) < len(numbers) / 8  # by chance one of MIXED_SHARDS


@pytest.mark.parametrize("count", [1, 2, 50])
def test_keys_are_unique_over_all_shards(count):
    keys = ["x", "x-2", "y"]
    plan = make_plan(scanned(*[keys] * count), Options())
    found = [key for shard in plan.shards.values() for _, _, key in shard]
    assert len(set(found)) == 3 * count
    assert {"x", "x-2", "y"} <= set(found)
