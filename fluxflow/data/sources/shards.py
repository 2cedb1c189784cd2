"""WebDataset shards: tars of pictures with their captions."""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

from fluxflow.data.sources.locations import INDEX, ShardFile, expand, is_remote, open_file
from fluxflow.data.sources.records import IMAGE_SUFFIXES, MAX_CAPTION, MAX_PICTURE, Record, Unusable
from fluxflow.data.sources.tables import usable
from fluxflow.data.sources.tars import Tar
from fluxflow.errors import DataError

SUFFIXES = {*IMAGE_SUFFIXES, "txt", "json"}
LOOK = 100  # samples of the first shard that are looked at before the work starts


def demo_shards(split: str) -> "ShardReader":
    """The photographs of garments that come with FluxFlow.

    Args:
        split: "train" or "val".
    """
    return ShardReader(str(Path(__file__).parents[1] / "demo" / split))


class ShardReader:
    """Reads records from WebDataset shards.

    Args:
        urls: paths or URLs of tars; braces, folders and lists are expanded.
        caption_key: key of the sample's .json that holds its caption or captions. None: the .txt, or else the .json's
            `captions` or `caption`.
        needs_captions: whether a sample without a caption that can be used is rejected.
    """

    def __init__(self, urls: str | list[str], caption_key: str | None = None, needs_captions: bool = True) -> None:
        self.urls = urls
        self.caption_key = caption_key
        self.needs_captions = needs_captions
        self.shards: list[ShardFile] = []

    def __str__(self) -> str:
        return f"shards {self.urls}"

    def open(self) -> None:
        """Find the shards and look into the first. Raises DataError if there is nothing to train on."""
        self.shards = expand(self.urls)
        for shard in self.shards:
            if shard.bytes is not None and not is_remote(shard.location):
                open_file(shard).close()  # its size must be that of the index
        first = self.open_shard(0)
        problems = {first.load(index).problem for index in range(min(LOOK, len(first.keys)))}
        first.close()
        if not problems:
            suffixes = ", ".join(IMAGE_SUFFIXES)
            raise DataError(f"{self.shards[0].location} holds no sample; looked for {suffixes}, txt and json.")
        if "" not in problems:
            wanted = f"`{self.caption_key}` of a .json" if self.caption_key else ".txt, or `captions` of a .json"
            raise DataError(f"The first {min(LOOK, len(first.keys))} samples of {self.shards[0].location} cannot be "
                            f"used: {'; '.join(sorted(problems))} (captions come from {wanted}).")  # fmt: skip

    def shard_count(self) -> int:
        return len(self.shards)

    def open_shard(self, number: int) -> "TarShard":
        shard = self.shards[number]
        tar = Tar(open_file(shard), shard.location, SUFFIXES.__contains__)
        if shard.samples is not None and tar.samples != shard.samples:
            tar.close()
            raise DataError(f"Shard {shard.location} holds {tar.samples} samples where its {INDEX} says "
                            f"{shard.samples}: make it again, or remove the {INDEX}.")  # fmt: skip
        return TarShard(tar, self.caption_key, self.needs_captions)

    def fingerprint(self) -> str:
        """Of the names of the tars, and of their hashes from an index or else their sizes; a URL has its name alone."""
        digest = hashlib.sha256()
        for shard in self.shards:
            known = shard.sha256 or (None if is_remote(shard.location) else Path(shard.location).stat().st_size)
            digest.update(f"{PurePosixPath(shard.location).name} {known}\n".encode())
        return digest.hexdigest()


class TarShard:
    """One open shard.

    Args:
        tar: its tar.
        caption_key, needs_captions: as of the reader.
    """

    def __init__(self, tar: Tar, caption_key: str | None, needs_captions: bool) -> None:
        self.tar = tar
        self.caption_key = caption_key
        self.needs_captions = needs_captions

    @property
    def name(self) -> str:
        return self.tar.name

    @property
    def keys(self) -> Sequence[str]:
        return self.tar.keys

    def load(self, index: int) -> Record:
        key = self.tar.keys[index]
        if index in self.tar.problems:
            return Record(key, problem=self.tar.problems[index])
        suffixes = self.tar.suffixes(index)
        suffix = next((suffix for suffix in IMAGE_SUFFIXES if suffix in suffixes), None)
        if suffix is None:
            return Record(key, problem="no picture")
        try:
            image = self.tar.read(index, suffix, MAX_PICTURE)
        except Unusable as error:
            return Record(key, problem=str(error))
        captions, problem = self._captions(index, suffixes)
        return Record(key, problem=problem) if problem and self.needs_captions else Record(key, image, captions)

    def close(self) -> None:
        self.tar.close()

    def _captions(self, index: int, suffixes: set[str]) -> tuple[tuple[str, ...], str]:
        """The captions of a sample, or what is wrong with them."""
        try:
            if self.caption_key is None and "txt" in suffixes:
                return usable([self.tar.read(index, "txt", MAX_CAPTION).decode("utf-8-sig")])
            row = json.loads(self.tar.read(index, "json", MAX_CAPTION)) if "json" in suffixes else {}
        except Unusable as error:
            return (), str(error)
        except UnicodeDecodeError:
            return (), "caption that is no UTF-8 text"
        except (ValueError, RecursionError):
            return (), "caption in no JSON object"
        if not isinstance(row, dict):
            return (), "caption in no JSON object"
        names = [self.caption_key] if self.caption_key else ["captions", "caption"]
        found = next((row[name] for name in names if name in row), [])
        return usable(found if isinstance(found, list) else [found])
