"""Sources and transforms for tests of order and streams."""

import random
from dataclasses import dataclass, field
from typing import Any

import torch

from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.transforms import Transform
from fluxflow.data.sources.records import Record


def sized(image_size: int = 8, multiple: int = 1, max_aspect: float | None = None, **options: Any) -> dict[str, Any]:
    """What a DataModule takes for pictures of this size; by default what configs/pictures.yaml trains with."""
    options = {"crop": "random", "flip": 0.5, "caption_rule": "random"} | options
    return {"image_size": image_size, "transform": Transform(Buckets(image_size, multiple, max_aspect), **options)}


@dataclass
class Keys:
    """A reader of nothing but keys, shard-index, and a count of the shards that are open.

    Args:
        sizes: samples of each shard.
    """

    sizes: tuple[int, ...]
    opened: list[int] = field(default_factory=list)
    most: int = 0

    def open(self) -> None: ...

    def shard_count(self) -> int:
        return len(self.sizes)

    def open_shard(self, number: int) -> "KeysShard":
        self.opened.append(number)
        self.most = max(self.most, len(self.opened))
        return KeysShard(self, number)

    def fingerprint(self) -> str:
        return str(self.sizes)

    def all(self) -> list[str]:
        return [f"{shard}-{index}" for shard, size in enumerate(self.sizes) for index in range(size)]


@dataclass
class KeysShard:
    reader: Keys
    number: int

    @property
    def name(self) -> str:
        return f"shard {self.number}"

    @property
    def keys(self) -> list[str]:
        return [f"{self.number}-{index}" for index in range(self.reader.sizes[self.number])]

    def load(self, index: int) -> Record:
        return Record(self.keys[index], b"", ("a caption",))

    def close(self) -> None:
        self.reader.opened.remove(self.number)


@dataclass(frozen=True)
class TwoSizes:
    """Random crops and flips of 8 × 8, and for the keys that end in 3 wider ones; validation is square."""

    square: Transform = field(default_factory=lambda: Transform(Buckets(8, 1), "random", 0.5))

    def for_validation(self) -> Transform:
        return self.square.for_validation()

    def size(self, record: Record) -> tuple[int, int]:
        return (8, 12) if record.key.endswith("3") else (8, 8)

    def __call__(self, record: Record, size: tuple[int, int], rng: random.Random) -> dict[str, Any]:
        image = self.square(record, (8, 8), rng)["image"]
        return {"image": torch.cat([image, image], 2)[:, :, : size[1]], "caption": record.captions[0],
                "key": record.key}  # fmt: skip


@dataclass(frozen=True)
class Numbers:
    """What Keys has to offer, as a tensor of one number; sizes by the last digit of the key."""

    sizes: int = 1

    def size(self, record: Record) -> tuple[int, int]:
        return (1, 1 + int(record.key[-1]) % self.sizes)

    def __call__(self, record: Record, size: tuple[int, int], rng: random.Random) -> dict[str, Any]:
        return {"number": torch.full(size, rng.random()), "key": record.key}
