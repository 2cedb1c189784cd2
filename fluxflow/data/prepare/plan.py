"""Which sample goes into which shard, near duplicates left out, decided before anything is written."""

import itertools
import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from fluxflow.data.prepare.scan import Options
from fluxflow.data.sources.records import Split

BITS = 64


def near_duplicates(hashes: np.ndarray, distance: int) -> np.ndarray:
    """Of which earlier hash each hash is a near duplicate. A hash that is one makes no duplicates of its own.

    The result is exact: two hashes that differ in at most d bits agree in one of d + 1 bands of bits, so each kept
    hash is compared with those alone that share a band with it.

    Args:
        hashes: uint64 [N], in the order in which the first one stays.
        distance: highest number of bits in which near duplicates differ.

    Returns:
        int64 [N]: the index of the kept hash, or -1 for those that are kept.
    """
    hashes = hashes.astype(np.uint64)
    kept_by = np.full(len(hashes), -1, np.int64)
    bands = [_Band(hashes, edge, following) for edge, following in _edges(distance + 1)]
    for index in range(len(hashes)):
        if kept_by[index] >= 0:
            continue
        for band in bands:
            later = band.later(index)
            if len(later):
                near = later[_popcount(hashes[later] ^ hashes[index]) <= distance]
                kept_by[near[kept_by[near] < 0]] = index
    return kept_by


def _edges(bands: int) -> list[tuple[int, int]]:
    edges = [BITS * band // bands for band in range(bands + 1)]
    return list(itertools.pairwise(edges))


class _Band:
    """Hashes grouped by some of their bits, each group in the order of the hashes."""

    def __init__(self, hashes: np.ndarray, edge: int, following: int) -> None:
        values = (hashes >> np.uint64(edge)) & np.uint64((1 << (following - edge)) - 1)
        self.order = np.argsort(values, kind="stable")
        self.place = np.empty_like(self.order)
        self.place[self.order] = np.arange(len(hashes))
        grouped = values[self.order]
        self.end = np.searchsorted(grouped, grouped, side="right")

    def later(self, index: int) -> np.ndarray:
        """The indices behind this one in its group."""
        place = self.place[index]
        return self.order[place + 1 : self.end[place]]


ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def _popcount(values: np.ndarray) -> np.ndarray:
    """Number of ones in each uint64."""
    return ONES[values.view(np.uint16).reshape(-1, 4)].sum(axis=1)


MIXED_SHARDS = 16  # shards of the source whose samples are shuffled together, since so many may be open at a time


Planned = tuple[int, int, str]  # shard of the source, index in it, key


class Candidate(NamedTuple):
    """A sample whose look found no problem."""

    number: int
    key: str
    source: str
    hash: int


@dataclass(frozen=True)
class Plan:
    """What will be written.

    Args:
        shards: by path below the output ("train/00000.tar"): what each shall hold.
        rejected: what will not, as rejected.jsonl says it.
    """

    shards: dict[str, list[Planned]]
    rejected: list[dict[str, str]]


def make_plan(scanned: list[tuple[int, dict]], options: Options) -> Plan:
    """Decide about every sample.

    Args:
        scanned: number of the shard and result of each scan, in the order of the source.
        options: what decides the output.
    """
    keys = _Keys()
    usable: dict[int, list[Candidate]] = {}  # by the number of their shard
    rejected: list[dict[str, str]] = []
    seen: dict[int, int] = {}
    for number, found in scanned:
        for key, source, problem, value in zip(*(found[name] for name in ("keys", "sources", "problems", "hashes"))):
            index = seen[number] = seen.get(number, -1) + 1
            name = keys.unique(key)
            if problem:
                rejected.append({"source": source, "key": name, "reason": problem})
            else:
                usable.setdefault(number, []).append(Candidate(index, name, source, value))
    if options.drop_duplicates is not None:
        rejected += _drop_duplicates(usable, options.drop_duplicates)
    order = list(_shuffled(usable, options.seed))
    shards: dict[str, list[Planned]] = {}
    for folder, split in (("train", Split(options.val_fraction)), ("val", Split(options.val_fraction, held_out=True))):
        samples = [sample for sample in order if sample[2] in split]
        for start in range(0, len(samples), options.shard_samples):
            name = f"{folder}/{start // options.shard_samples:05d}.tar"
            shards[name] = samples[start : start + options.shard_samples]
    return Plan(shards, rejected)


def _drop_duplicates(usable: dict[int, list[Candidate]], distance: int) -> list[dict[str, str]]:
    """Take near duplicates of samples with a smaller key out of the usable ones; returns them as rejected."""
    samples = sorted((sample for samples in usable.values() for sample in samples), key=lambda sample: sample.key)
    repeated = near_duplicates(np.array([sample.hash for sample in samples], np.uint64), distance)
    pairs = [(samples[index], samples[first]) for index, first in enumerate(repeated) if first >= 0]
    dropped = {sample.key for sample, _ in pairs}
    for number, own in usable.items():
        usable[number] = [sample for sample in own if sample.key not in dropped]
    return [{"source": sample.source, "key": sample.key, "reason": "near duplicate", "of": first.key}
            for sample, first in pairs]  # fmt: skip


def _shuffled(usable: dict[int, list[Candidate]], seed: int) -> Iterator[Planned]:
    order = sorted(usable)
    random.Random(f"{seed}").shuffle(order)
    for block in range(0, len(order), MIXED_SHARDS):
        samples = [(number, sample.number, sample.key) for number in order[block : block + MIXED_SHARDS]
                   for sample in usable[number]]  # fmt: skip
        random.Random(f"{seed}/{block}").shuffle(samples)
        yield from samples


class _Keys:
    """Gives each sample a key of its own: two shards may use the same one, a thousand of them too."""

    def __init__(self) -> None:
        self._last: dict[str, int] = {}

    def unique(self, key: str) -> str:
        if key not in self._last:
            self._last[key] = 1
            return key
        self._last[key] += 1
        return self.unique(f"{key}-{self._last[key]}")
