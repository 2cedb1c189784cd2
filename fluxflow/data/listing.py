"""What lies in a folder, links followed, and reading one of its files: nothing of it may block or go on without end."""

from __future__ import annotations

import os
import stat
from dataclasses import dataclass, field
from pathlib import Path

from ..errors import DataError
from .records import Unusable


@dataclass
class Listing:
    """The files of a folder and of the folders below it, by their paths below it; the hidden ones are left out.

    Args:
        files: Those that can be read, by what the file system says.
        faults: Links that lead nowhere, pipes and devices, and, with a slash at the end, folders that cannot be read.
        root: The folder.

    Raises:
        DataError: If the folder itself cannot be read.
    """

    root: Path
    files: list[str] = field(default_factory=list)
    faults: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        """A folder that several ways lead to is listed once, by the way without links where there is one."""
        seen: set[tuple[int, int]] = set()
        starts = [""]
        while starts:
            waiting, linked = starts[::-1], []
            while waiting:
                self._list(waiting.pop(), waiting, linked, seen)
            starts = sorted(linked)
        self.files.sort()
        self.faults.sort()

    def _list(self, below: str, folders: list[str], linked: list[str], seen: set[tuple[int, int]]) -> None:
        """List one folder, and add to `folders` and `linked` those in it."""
        folder = self.root / below
        try:
            status = folder.stat()
            if (status.st_dev, status.st_ino) in seen:
                return
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(folder) as entries:
                for entry in entries:
                    if not entry.name.startswith("."):
                        self._sort_in(entry, f"{below}{entry.name}", folders, linked)
        except OSError as error:
            if not below:
                raise DataError(f"{folder} cannot be read: {error.strerror}.") from None
            self.faults.append(below)

    def _sort_in(self, entry: os.DirEntry[str], path: str, folders: list[str], linked: list[str]) -> None:
        try:
            if entry.is_dir():
                (linked if entry.is_symlink() else folders).append(f"{path}/")
            else:
                (self.files if entry.is_file() else self.faults).append(path)
        except OSError:  # a link to itself
            self.faults.append(path)


def read_regular(path: Path, most: int, first: int = -1) -> bytes:
    """The content of a file.

    Args:
        path: Of the file.
        most: Bytes that are borne.
        first: Bytes that are wanted, from the beginning on; -1 for all.

    Raises:
        Unusable: If it cannot be read, is no regular file, or is larger.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):
            raise Unusable("no regular file")
        if status.st_size > most:
            raise Unusable(f"file above {most >> 20} MiB")
        with path.open("rb") as file:
            return file.read(most if first < 0 else first)
    except OSError as error:
        raise Unusable(f"unreadable file ({error.strerror})") from None
