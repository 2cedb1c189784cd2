"""WebDataset shards: tars in which the files of one sample share a name and follow one another.

Nothing in a shard is unpickled or run: members are taken as bytes, by the suffixes named here, and decoded by us.
"""

from __future__ import annotations

import contextlib
import hashlib
import itertools
import json
import os
import random
import re
import tarfile
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import IO

os.environ["WDS_SECURE"] = "1"  # must be set before the import: webdataset then runs no command and no pickle

import braceexpand
from webdataset.tariterators import group_by_keys, tar_file_expander

from ..errors import DataError
from .records import IMAGE_SUFFIXES, Part, Place, Record, inventory, sample_key
from .tables import usable

PICTURE = re.compile(rf"\.({'|'.join(IMAGE_SUFFIXES)})$", re.IGNORECASE)
WANTED = re.compile(rf"\.({'|'.join(IMAGE_SUFFIXES)}|txt|json)$", re.IGNORECASE)
REMOTE = re.compile(r"https?://[^'\"`$\s]+$")


def demo_shards(part: str) -> ShardReader:
    """The photographs of garments that come with FluxFlow.

    Args:
        part: "train" or "val".
    """
    return ShardReader(str(Path(__file__).parent / "demo" / part))


def expand(urls: str | list[str]) -> list[str]:
    """Tars named by paths, http(s) URLs, {braces}, folders of tars, or a list of these.

    Raises:
        DataError: If one is missing or of another kind.
    """
    names = [urls] if isinstance(urls, str) else urls
    found: list[str] = []
    for name in itertools.chain.from_iterable(map(_braces, names)):
        path = Path(name).expanduser()
        if REMOTE.match(name):
            found.append(name)
        elif re.match(r"\w{2,}:", name):
            raise DataError(f"{name} cannot be read: shards are local paths, or http and https URLs.")
        elif path.is_dir():
            tars = sorted(str(tar) for tar in path.glob("*.tar"))
            if not tars:
                held = inventory(path.iterdir())
                raise DataError(f"No *.tar in {path}; it holds {held}. For plain pictures use data=folder.")
            found += tars
        elif path.is_file():
            found.append(str(path))
        else:
            held = inventory(path.parent.iterdir()) if path.parent.is_dir() else "nothing, it does not exist"
            raise DataError(f"There is no shard {path}; {path.parent} holds {held}.")
    if not found:
        raise DataError("No shards are named: give a path, a {first..last} range, a folder of tars or a list.")
    return found


def _braces(name: str) -> list[str]:
    try:
        return list(braceexpand.braceexpand(name, escape=False))
    except ValueError:
        raise DataError(f"The braces of {name} are not balanced: a range reads {{00..41}}.") from None


class ShardReader:
    """Reads records from WebDataset shards.

    Args:
        urls: Paths or URLs of tars; braces, folders and lists are expanded.
        caption_key: Key of the sample's .json that holds the caption. None: the .txt, or else the .json's `caption`.
        shuffle_buffer: Samples (encoded) among which the next one is drawn, on top of the shuffled order of shards.
    """

    def __init__(self, urls: str | list[str], caption_key: str | None = None, shuffle_buffer: int = 1000) -> None:
        self.urls = urls
        self.caption_key = caption_key
        self.shuffle_buffer = shuffle_buffer
        self.shards: list[str] = []

    def __str__(self) -> str:
        return f"shards {self.urls}"

    def open(self) -> None:
        """Find the shards and look into the first. Raises DataError if there is nothing to train on."""
        self.shards = expand(self.urls)
        first = list(itertools.islice(self._read(self.shards[0]), 100))
        problems = {record.problem for record in first}
        if not first:
            raise DataError(f"{self.shards[0]} holds no sample; looked for {', '.join(IMAGE_SUFFIXES)}, txt and json.")
        if "" not in problems:
            raise DataError(f"The first {len(first)} samples of {self.shards[0]} cannot be used: "
                            f"{'; '.join(sorted(problems))}.")  # fmt: skip

    def count(self) -> int | None:
        """Number of pictures, from the headers of the tars; None if one of them is remote."""
        if any(REMOTE.match(shard) for shard in self.shards):
            return None
        total = 0
        for shard in self.shards:
            with _named(shard), tarfile.open(shard) as tar:
                total += sum(PICTURE.search(member.name) is not None for member in tar)
        return total

    def shuffled(self, order: str, place: Place, part: Part) -> Iterator[Record]:
        """One pass over a place's share: whole shards, or every n-th sample where there are too few shards."""
        shards = list(self.shards)
        random.Random(order).shuffle(shards)
        if len(shards) >= place.count:
            records = self._read_all(shards[place.index :: place.count])
        else:
            records = itertools.islice(self._read_all(shards), place.index, None, place.count)
        rng, buffer = random.Random(f"{order}/{place.rank}/{place.worker}"), []
        for record in (record for record in records if record.key in part):
            buffer.append(record)
            if len(buffer) > self.shuffle_buffer:
                pick = rng.randrange(len(buffer))
                buffer[pick], buffer[-1] = buffer[-1], buffer[pick]
                yield buffer.pop()
        rng.shuffle(buffer)
        yield from buffer

    def ordered(self, part: Part) -> Iterator[Record]:
        """Every sample of a part, shard after shard."""
        return (record for record in self._read_all(self.shards) if record.key in part)

    def _read_all(self, shards: list[str]) -> Iterator[Record]:
        return itertools.chain.from_iterable(map(self._read, shards))

    def _read(self, shard: str) -> Iterator[Record]:
        with _named(shard), _stream(shard) as stream:
            files = tar_file_expander([{"url": shard, "stream": stream}], select_files=_is_wanted)
            for sample in group_by_keys(files):
                yield self._record(sample)

    def _record(self, sample: dict) -> Record:
        key = sample_key(sample["__key__"])
        suffix = next((s for s in IMAGE_SUFFIXES if s in sample), None)
        if suffix is None:
            return Record(key, problem=f"no picture ({', '.join(IMAGE_SUFFIXES)})")
        try:
            if self.caption_key is None and "txt" in sample:
                found = sample["txt"].decode("utf-8-sig", "surrogateescape")
            else:
                columns = json.loads(sample.get("json", b"{}"))
                if not isinstance(columns, dict):
                    raise TypeError
                wanted = (self.caption_key,) if self.caption_key else ("captions", "caption")
                found = next((columns[name] for name in wanted if name in columns), None)
        except (ValueError, TypeError):  # UnicodeDecodeError and JSONDecodeError are ValueErrors
            return Record(key, problem="caption that is no UTF-8 text or JSON object")
        captions, problem = usable(found if isinstance(found, list) else [found])
        return Record(key, problem=problem) if problem else Record(key, sample[suffix], captions)

    def pieces(self) -> int:
        """Number of tars."""
        return len(self.shards)

    def piece(self, number: int) -> ShardPiece:
        """One tar, read whole."""
        return ShardPiece(self.shards[number], list(self._read(self.shards[number])))

    def fingerprint(self) -> str:
        """Hash of the names and sizes of the tars."""
        sizes = [(Path(shard).name, Path(shard).stat().st_size) for shard in self.shards if not REMOTE.match(shard)]
        return hashlib.sha256(repr((sizes, self.shards if not sizes else 0, self.caption_key)).encode()).hexdigest()


class ShardPiece:
    """The samples of one tar."""

    def __init__(self, name: str, records: list[Record]) -> None:
        self.name = name
        self.keys = [record.key for record in records]
        self._records = records

    def load(self, index: int) -> Record:
        return self._records[index]

    def close(self) -> None:
        self._records = []


def _is_wanted(name: str) -> bool:
    return WANTED.search(name) is not None


def _stream(shard: str) -> IO[bytes]:
    return urllib.request.urlopen(shard) if REMOTE.match(shard) else Path(shard).open("rb")


@contextlib.contextmanager
def _named(shard: str) -> Iterator[None]:
    """Whatever reading a tar may raise becomes a DataError that names the shard."""
    try:
        yield
    except (tarfile.TarError, EOFError, OSError, ValueError) as error:
        raise DataError(f"Shard {shard} is damaged or out of reach: {error.args[0]}") from error
