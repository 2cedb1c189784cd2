"""What all readers share: a record, the shard it lies in, its split, and the worker that takes it.

Conventions, stated here once:

- A *record* is one captioned picture as it is stored: encoded bytes, not yet decoded.
- A *shard* is what is opened at once: a tar, a file of a cache, or a whole folder. A record is named by its shard and
  its index in it.
- An *epoch* shows every record once. The endless training stream is epoch after epoch; order.py says in which order.
- The *held-out split* is decided by a hash of the key alone, so a folder and the shards made from it agree on it.
"""

import hashlib
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

IMAGE_SUFFIXES = ("jpg", "jpeg", "png", "webp")
MAX_PICTURE = 512 << 20  # bytes of a picture's file: 8 for each of the pixels that decode.py bears
MAX_CAPTION = 1 << 20  # bytes of a .txt or .json
# Controls, which move a terminal's cursor, marks that turn the direction of writing, bytes that are no UTF-8
UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028-\u202e\u2066-\u2069\ud800-\udfff]")


class Unusable(Exception):
    """A file that cannot be used; the message is the reason, in a few words that do not name it, to be counted."""


@dataclass(frozen=True)
class Record:
    """One stored sample.

    Args:
        key: name of the sample, unique in its shard.
        image: encoded picture; empty when `problem` is set.
        captions: its captions; none where the reader needs none, or where `problem` is set.
        problem: why the sample cannot be used, in a few words; empty when it can.
    """

    key: str
    image: bytes = b""
    captions: tuple[str, ...] = ()
    problem: str = ""


@dataclass(frozen=True)
class WorkerShard:
    """The share of one loader worker of a rank in an epoch."""

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


ALONE = WorkerShard()


@dataclass(frozen=True)
class Split:
    """The training or the held-out split of a source; by default all of it.

    Args:
        fraction: share of the source that is held out, in [0, 1).
        held_out: True for the held-out split, False for the rest.
    """

    fraction: float = 0.0
    held_out: bool = False

    def __contains__(self, key: str) -> bool:
        if self.fraction == 0:
            return not self.held_out
        digest = hashlib.blake2b(key.encode(), digest_size=8).digest()
        return (int.from_bytes(digest, "big") < self.fraction * 2**64) == self.held_out


class Shard(Protocol):
    """What is opened at once: a tar, a file of a cache, or a whole folder."""

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

    def shard_count(self) -> int:
        """Number of shards."""
        ...

    def open_shard(self, number: int) -> Shard:
        """Open a shard. Raises DataError, naming it, if nothing of it can be read."""
        ...

    def fingerprint(self) -> str:
        """A string that changes when the source does, and not with the folder it lies in."""
        ...


def ordered(reader: Reader, split: Split = Split()) -> Iterator[Record]:
    """Every record of a split once, in stored order."""
    for number in range(reader.shard_count()):
        shard = reader.open_shard(number)
        yield from (shard.load(index) for index, key in enumerate(shard.keys) if key in split)
        shard.close()


def sample_key(stem: str) -> str:
    """Key of a picture at a relative path without its suffix.

    Dots, which webdataset takes for the start of a suffix, and what cannot be printed become underscores, and leading
    underscores, with which it marks its own members, go.
    """
    return UNPRINTABLE.sub("_", stem.replace(".", "_").lstrip("_")) or "_"


def printable(text: str) -> str:
    """A stranger's text for a line of a log or of a terminal: what cannot be printed is escaped."""
    return UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


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
