"""Writing a file so that a reader, or a writer that is killed or finds the disk full, never meets half of it."""

import contextlib
import errno
import os
from collections.abc import Collection, Iterator
from pathlib import Path
from typing import BinaryIO

from fluxflow.errors import StorageError

PARTIAL = ".part"
FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS}  # of what is written alone
STORAGE = FULL | {
    errno.EACCES, errno.EPERM, errno.EIO, errno.ENOTDIR, errno.EISDIR, errno.EEXIST, errno.ENAMETOOLONG, errno.ESTALE,
}  # fmt: skip


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[BinaryIO]:
    """Give a file that takes the place of `path` when the block ends without an error.

    It lies beside `path`, and is on the disk before the one rename that makes it visible; after an error it is gone.

    Raises:
        StorageError: the disk is full, read-only or out of reach.
    """
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")  # another process may write the same file
    with storage_errors(path):
        _begun.add(partial)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
                file.flush()
                os.fsync(file.fileno())
            rename(partial, path)
        finally:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            _begun.discard(partial)


_begun: set[Path] = set()


def discard_begun() -> None:
    """Remove the files that this process is writing, for an end at once."""
    for partial in list(_begun):
        with contextlib.suppress(OSError):
            partial.unlink(missing_ok=True)


def rename(source: Path, target: Path) -> None:
    """Move a file over another one of the same folder, for good: after a power cut it is still so."""
    source.replace(target)
    with contextlib.suppress(OSError):  # not every file system can do so with a folder
        folder = os.open(target.parent, os.O_RDONLY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)


def remove_partial(folder: Path) -> None:
    """Remove what killed writers left below a folder in which no other process writes."""
    for partial in folder.rglob(f"*{PARTIAL}"):
        if partial.stem.rpartition(".")[2].isdecimal():  # the number of the process
            partial.unlink(missing_ok=True)


def append_whole(descriptor: int, data: bytes) -> None:
    """Append to an open file; where the disk takes a part of it only, nothing of it stays. Raises OSError."""
    size = os.fstat(descriptor).st_size
    try:
        while data:
            data = data[os.write(descriptor, data) :]
    except OSError:
        os.ftruncate(descriptor, size)
        raise


@contextlib.contextmanager
def storage_errors(path: Path, kinds: Collection[int] = STORAGE) -> Iterator[None]:
    """Turn what a disk refuses within the block into the sentence that names `path`.

    Raises:
        StorageError: in place of an OSError of these `kinds`, or of the RuntimeError that torch.save makes of one.
    """
    try:
        yield
    except (OSError, RuntimeError) as error:
        refused = error if isinstance(error, OSError) else error.__context__
        if not isinstance(refused, OSError) or refused.errno not in kinds:
            raise
        raise StorageError(f"{path} cannot be written: {refused.strerror}.") from error
