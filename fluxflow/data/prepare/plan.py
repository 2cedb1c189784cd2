"""Which sample goes into which shard, decided before anything is written."""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from ..records import Part
from .duplicates import near_duplicates
from .options import Options

MIXED_PIECES = 16  # shards of the source whose samples are shuffled together, since so many may be open at a time


Planned = tuple[int, int, str]  # piece, index in it, key


class Candidate(NamedTuple):
    """A sample whose look found no problem."""

    index: int
    key: str
    source: str
    hash: int


@dataclass(frozen=True)
class Plan:
    """What will be written.

    Args:
        shards: By path below the output ("train/00000.tar"): what each shall hold.
        rejected: What will not, as rejected.jsonl says it.
    """

    shards: dict[str, list[Planned]]
    rejected: list[dict[str, str]]


def make_plan(scanned: list[tuple[int, dict]], options: Options) -> Plan:
    """Decide about every sample.

    Args:
        scanned: Number of the piece and result of each scan, in the order of the source.
        options: What decides the output.
    """
    keys = _Keys()
    pieces: dict[int, list[Candidate]] = {}
    rejected: list[dict[str, str]] = []
    seen: dict[int, int] = {}
    for number, found in scanned:
        for key, source, problem, value in zip(*(found[name] for name in ("keys", "sources", "problems", "hashes"))):
            index = seen[number] = seen.get(number, -1) + 1
            name = keys.unique(key)
            if problem:
                rejected.append({"source": source, "key": name, "reason": problem})
            else:
                pieces.setdefault(number, []).append(Candidate(index, name, source, value))
    if options.drop_duplicates is not None:
        rejected += _drop_duplicates(pieces, options.drop_duplicates)
    order = list(_shuffled(pieces, options.seed))
    shards: dict[str, list[Planned]] = {}
    for folder, part in (("train", Part(options.val_fraction)), ("val", Part(options.val_fraction, held_out=True))):
        samples = [sample for sample in order if sample[2] in part]
        for start in range(0, len(samples), options.shard_samples):
            name = f"{folder}/{start // options.shard_samples:05d}.tar"
            shards[name] = samples[start : start + options.shard_samples]
    return Plan(shards, rejected)


def _drop_duplicates(pieces: dict[int, list[Candidate]], distance: int) -> list[dict[str, str]]:
    """Take near duplicates of samples with a smaller key out of the pieces; returns them as rejected."""
    samples = sorted((sample for piece in pieces.values() for sample in piece), key=lambda sample: sample.key)
    repeated = near_duplicates(np.array([sample.hash for sample in samples], np.uint64), distance)
    pairs = [(samples[index], samples[first]) for index, first in enumerate(repeated) if first >= 0]
    dropped = {sample.key for sample, _ in pairs}
    for number, piece in pieces.items():
        pieces[number] = [sample for sample in piece if sample.key not in dropped]
    return [{"source": sample.source, "key": sample.key, "reason": "near duplicate", "of": first.key}
            for sample, first in pairs]  # fmt: skip


def _shuffled(pieces: dict[int, list[Candidate]], seed: int) -> Iterator[Planned]:
    order = sorted(pieces)
    random.Random(f"{seed}").shuffle(order)
    for block in range(0, len(order), MIXED_PIECES):
        samples = [(number, sample.index, sample.key) for number in order[block : block + MIXED_PIECES]
                   for sample in pieces[number]]  # fmt: skip
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
