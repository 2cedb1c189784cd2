"""Tars of samples, read by offset, with webdataset's naming. Nothing in them is unpickled or run.

The files of one sample share a name up to the first dot of its last part, and follow one another. What comes after that
dot is the suffix.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Callable
from typing import IO

from ..errors import DataError
from .records import sample_key, unique

CUT = "cut off at the end of its shard"
REST = "rest of a damaged shard"


class Tar:
    """The samples of one open tar.

    Of a tar that is cut off or damaged it shows what can be read, and one sample more, whose problem is `REST`.

    Args:
        file: The tar, seekable and with a file descriptor.
        name: What messages call it.
        wanted: Whether members of a suffix (in lower case) are of use; others are passed over.

    Attributes:
        keys: The names of the samples in stored order, made unique.
        problems: What is wrong with a sample, by its index.
        samples: How many of them are not the damaged rest.

    Raises:
        DataError: If nothing can be read.
    """

    def __init__(self, file: IO[bytes], name: str, wanted: Callable[[str], bool]) -> None:
        self.name = name
        self.problems: dict[int, str] = {}
        self._file = file
        self._size = os.fstat(file.fileno()).st_size
        self._files: list[dict[str, tuple[int, int]]] = []  # suffix → offset and size
        stems, whole = self._list(wanted)
        self.samples = len(stems)
        if not whole:
            self.problems[len(stems)] = REST
            stems.append(REST)
        taken: set[str] = set()
        self.keys = [unique(sample_key(stem), taken) for stem in stems]

    def files(self, index: int) -> dict[str, bytes]:
        """The content of a sample by suffix."""
        descriptor = self._file.fileno()
        return {suffix: os.pread(descriptor, size, at) for suffix, (at, size) in self._files[index].items()}

    def close(self) -> None:
        """Close the file."""
        self._file.close()

    def _list(self, wanted: Callable[[str], bool]) -> tuple[list[str], bool]:
        """Find the samples; returns their names, and whether the tar reaches its end-of-archive mark."""
        stems: list[str] = []
        try:
            with tarfile.open(fileobj=self._file, mode="r:") as tar:
                while (member := tar.next()) is not None:
                    tar.members = []  # pyright: ignore[reportAttributeAccessIssue] (tarfile would keep them all)
                    self._add(member, stems, wanted)
                whole = bool(self._zeros(tar.offset))
        except tarfile.ReadError as error:
            if not stems:
                raise DataError(f"Shard {self.name} is damaged or no uncompressed tar ({error}): "
                                "make it again, or leave it out.") from None  # fmt: skip
            whole = False
        return stems, whole

    def _add(self, member: tarfile.TarInfo, stems: list[str], wanted: Callable[[str], bool]) -> None:
        folder, _, name = member.name.rpartition("/")
        base, _, suffix = name.partition(".")
        suffix = suffix.lower()
        if not member.isreg() or not base or not wanted(suffix):
            return
        stem = f"{folder}/{base}" if folder else base
        if not stems or stem != stems[-1] or suffix in self._files[-1]:
            stems.append(stem)
            self._files.append({})
        self._files[-1][suffix] = (member.offset_data, member.size)
        if member.offset_data + member.size > self._size:
            self.problems[len(stems) - 1] = CUT

    def _zeros(self, offset: int) -> bool:
        block = os.pread(self._file.fileno(), tarfile.BLOCKSIZE, offset)
        return len(block) == tarfile.BLOCKSIZE and not any(block)
