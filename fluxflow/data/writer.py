"""Writing shards: tars whose bytes depend on their content alone."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path


class ShardWriter:
    """Writes samples into numbered tars of a folder, as a context manager.

    The folder and each tar come into being with their first sample; a tar gets its name when it is complete.

    Args:
        folder: Where the tars go.
        shard_samples: Samples a tar.
    """

    def __init__(self, folder: Path, shard_samples: int) -> None:
        self.folder = folder
        self.shard_samples = shard_samples
        self.written = 0
        self._tar: tarfile.TarFile | None = None
        self._path = folder

    def __enter__(self) -> ShardWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self._finish()
        elif self._tar is not None:
            self._tar.close()

    def write(self, key: str, files: dict[str, bytes]) -> None:
        """Append one sample: a member `key.suffix` for each suffix and content in `files`."""
        if self._tar is None or self.written % self.shard_samples == 0:
            self._finish()
            self._tar = self._begin()
        for suffix, content in files.items():
            member = tarfile.TarInfo(f"{key}.{suffix}")  # its time, owner and mode are constants
            member.size = len(content)
            self._tar.addfile(member, io.BytesIO(content))
        self.written += 1

    def _begin(self) -> tarfile.TarFile:
        self.folder.mkdir(parents=True, exist_ok=True)
        self._path = self.folder / f"{self.written // self.shard_samples:05d}.tar"
        return tarfile.open(self._partial, "w", format=tarfile.PAX_FORMAT)

    def _finish(self) -> None:
        if self._tar is not None:
            self._tar.close()
            self._partial.replace(self._path)
            self._tar = None

    @property
    def _partial(self) -> Path:
        return self._path.with_suffix(".part")
