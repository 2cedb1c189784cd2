"""Writing one shard of the plan: its bytes depend on the plan and the content alone."""

import contextlib
import hashlib
import json
from collections import Counter
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, BinaryIO

from fluxflow.data.images.decode import UndecodableImage
from fluxflow.data.prepare.plan import Planned
from fluxflow.data.prepare.report import caption_lengths
from fluxflow.data.prepare.scan import Job, source_name
from fluxflow.data.sources.records import Record, Shard
from fluxflow.errors import DataError, StorageError
from fluxflow.files import replacing, storage_errors

if TYPE_CHECKING:
    from webdataset.writer import TarWriter

GO_ON = "Mend that and run the same command again: it goes on where it stopped."


class ShardWriter:
    """Writes samples into one tar, as a context manager.

    The tar comes into being with its first sample, and has its name only when it is complete and on the disk.

    Args:
        path: of the tar. Its folder is made.

    Raises:
        DataError: if it cannot be written, by whatever is called first to find out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self._tar: TarWriter | None = None
        self._file: _Hashed | None = None
        self._writing = contextlib.ExitStack()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        with self._named():
            if kind is None and self._tar is not None:
                self._tar.close()
            self._writing.__exit__(kind, error, traceback)

    def write(self, key: str, files: dict[str, bytes]) -> None:
        """Append one sample: a member `key.suffix` for each suffix and content in `files`."""
        with self._named():
            self._tar = self._tar or self._begin()
            self._tar.write({"__key__": key, **files})
        self.samples += 1

    def _begin(self) -> "TarWriter":
        from webdataset.writer import TarWriter  # here alone: it comes with torch, which takes seconds

        self._file = _Hashed(self._writing.enter_context(replacing(self.path)))
        return TarWriter(self._file, encoder=False, user="", group="", mode=0o644, mtime=0)  # pyright: ignore[reportArgumentType]

    def entry(self) -> dict[str, object]:
        """What the index says of a tar that is complete; empty if it has no sample."""
        if self._file is None:
            return {}
        digest = self._file.digest.hexdigest()
        return {"name": self.path.name, "samples": self.samples, "bytes": self._file.bytes, "sha256": digest}

    @contextlib.contextmanager
    def _named(self):
        try:
            with storage_errors(self.path):
                yield
        except StorageError as error:
            raise DataError(f"{error} {GO_ON}") from error


class _Hashed:
    """A file that counts and hashes what is written into it."""

    def __init__(self, file: BinaryIO) -> None:
        self.digest = hashlib.sha256()
        self.bytes = 0
        self._file = file

    def write(self, data: bytes) -> int:
        self.digest.update(data)
        self.bytes += len(data)
        return self._file.write(data)


def write_shard(job: Job, planned: tuple[str, list[Planned]]) -> dict:
    """Write one shard.

    Args:
        job: what all processes share.
        planned: its path below the output, and what it shall hold.

    Returns:
        Its entry in the index (empty if no sample was usable), the sizes of its pictures ("WxH": count), the lengths of
        its captions (length: count), and what was rejected.
    """
    name, samples = planned
    opened: dict[int, Shard] = {}
    sizes: Counter[str] = Counter()
    captions: list[str] = []
    rejected: list[dict[str, str]] = []
    with ShardWriter(job.out / name) as writer:
        for number, index, key in samples:
            if number not in opened:
                opened[number] = job.reader.open_shard(number)
            record = opened[number].load(index)
            try:
                if record.problem:
                    raise UndecodableImage(record.problem)
                data, suffix, (width, height) = job.options.encoding.apply(record.image)
            except UndecodableImage as error:
                source = source_name(opened[number], index)
                rejected.append({"source": source, "key": key, "reason": str(error)})
                continue
            writer.write(key, {suffix: data, **_caption_file(record)})
            sizes[f"{width}x{height}"] += 1
            captions += record.captions
    for shard in opened.values():
        shard.close()
    lengths = caption_lengths(captions, job.options.tokenizer)
    return {"entry": writer.entry(), "sizes": sizes, "lengths": lengths, "rejected": rejected}


def _caption_file(record: Record) -> dict[str, bytes]:
    if len(record.captions) == 1:
        return {"txt": record.captions[0].encode()}
    return {"json": json.dumps({"captions": record.captions}, ensure_ascii=False).encode()}
