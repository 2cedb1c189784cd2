"""What the readers of shards and of folders share: a record, its key, its place among the consumers, its part.

Conventions, stated here once:

- A *record* is one captioned picture as it is stored: encoded bytes, not yet decoded.
- A *pass* shows every record once. The endless training stream is pass after pass, and the order of a pass is a pure
  function of an order string (seed, start step, number of the pass) and of the consumer's place (rank, worker).
- The *held-out part* is decided by a hash of the key alone, so a folder and the shards made from it agree on it.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")


@dataclass(frozen=True)
class Record:
    """One stored sample.

    Args:
        key: Name of the sample, unique in its folder or shard.
        image: Encoded picture; empty when `problem` is set.
        captions: Its captions, one at least.
        problem: Why the sample cannot be used, in a few words; empty when it can.
    """

    key: str
    image: bytes = b""
    captions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class Place:
    """The place of one consumer (a loader worker of a rank) among all that share a pass."""

    rank: int = 0
    ranks: int = 1
    worker: int = 0
    workers: int = 1

    @property
    def index(self) -> int:
        return self.rank * self.workers + self.worker

    @property
    def count(self) -> int:
        return self.ranks * self.workers


ALONE = Place()


@dataclass(frozen=True)
class Part:
    """The part of a source that a stream shows; by default all of it.

    Args:
        fraction: Share of the source that is held out, in [0, 1).
        held_out: True for the held-out part, False for the rest.
    """

    fraction: float = 0.0
    held_out: bool = False

    def __contains__(self, key: str) -> bool:
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") < self.fraction * 2**64) == self.held_out


class Piece(Protocol):
    """What is opened at once: a shard, or a whole folder."""

    @property
    def name(self) -> str:
        """What messages and rejected.jsonl call it: the path or URL of the tar, the folder."""
        ...

    @property
    def keys(self) -> Sequence[str]:
        """The keys of its records in stored order, each once."""
        ...

    def load(self, index: int) -> Record:
        """Read the record of `keys[index]`. A bad sample has its `problem` set; nothing is raised for it."""
        ...

    def close(self) -> None:
        """Give back what is held open."""


class Reader(Protocol):
    """A source of records. Construction touches no file; `open` does, once, before the work starts."""

    def open(self) -> None:
        """Find the data. Raises DataError, naming what was looked for and what was there."""

    def pieces(self) -> int:
        """Number of pieces."""
        ...

    def piece(self, number: int) -> Piece:
        """Open one of them. Raises DataError if it is damaged or out of reach."""
        ...

    def fingerprint(self) -> str:
        """A hash that changes when the source does."""
        ...

    def count(self) -> int | None:
        """Number of records, or None where that would take a download."""

    def shuffled(self, order: str, place: Place, part: Part) -> Iterator[Record]:
        """One pass over this place's share of a part, in an order that (order, place) alone decide."""
        ...

    def ordered(self, part: Part) -> Iterator[Record]:
        """Every record of a part once, always in the same order."""
        ...


def sample_key(stem: str) -> str:
    """Key of a picture at a relative path without its suffix.

    Dots, which webdataset takes for the start of a suffix, become underscores, and leading underscores, with which it
    marks its own members, go.
    """
    return stem.replace(".", "_").lstrip("_") or "_"


def unique(key: str, taken: set[str]) -> str:
    """The key itself, or with the first free number behind it; notes the result in `taken`."""
    result, number = key, 1
    while result in taken:
        number += 1
        result = f"{key}-{number}"
    taken.add(result)
    return result


def inventory(paths: Iterable[Path]) -> str:
    """What a folder holds, in a few words, for an error message: "12 .jpg and 3 .tar files"."""
    counts = Counter(path.suffix.lower() or "extensionless" for path in paths if path.is_file())
    if not counts:
        return "no files"
    return " and ".join(f"{number} {suffix}" for suffix, number in counts.most_common(3)) + " files"
