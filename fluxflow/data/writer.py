"""Writing a shard: a tar whose bytes depend on its content alone."""

from __future__ import annotations

import contextlib
import hashlib
import io
import tarfile
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from ..errors import DataError, StorageError
from ..files import replacing, storage_errors

GO_ON = "Mend that and run the same command again: it goes on where it stopped."


class ShardWriter:
    """Writes samples into one tar, as a context manager.

    The tar comes into being with its first sample, and has its name only when it is complete and on the disk.

    Args:
        path: Of the tar. Its folder is made.

    Raises:
        DataError: If it cannot be written, by whatever is called first to find out.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.samples = 0
        self._tar: tarfile.TarFile | None = None
        self._file: _Hashed | None = None
        self._writing = contextlib.ExitStack()

    def __enter__(self) -> ShardWriter:
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
            for suffix, content in files.items():
                member = tarfile.TarInfo(f"{key}.{suffix}")  # its time, owner and mode are constants
                member.size = len(content)
                self._tar.addfile(member, io.BytesIO(content))
        self.samples += 1

    def _begin(self) -> tarfile.TarFile:
        self._file = _Hashed(self._writing.enter_context(replacing(self.path)))
        return tarfile.TarFile(fileobj=self._file, mode="w", format=tarfile.PAX_FORMAT)  # type: ignore[arg-type]

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

    def tell(self) -> int:
        return self.bytes
