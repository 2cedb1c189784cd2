"""Folders in which one process works at a time, and new ones that no other process takes."""

import contextlib
import fcntl
import itertools
import os
from pathlib import Path
from typing import IO

from fluxflow.files import storage_errors
from fluxflow.runs import remove_if_empty

LOCK = ".lock"
# Set by torchrun, srun, jsrun and Lightning: of the processes of one run, the first holds the folder for all.
RANKS = ("RANK", "LOCAL_RANK", "NODE_RANK", "SLURM_PROCID", "JSM_NAMESPACE_RANK")

_held: dict[Path, IO[str]] = {}


def is_first_rank() -> bool:
    """Return whether this process is the only one of its run, or the first."""
    return all(os.environ.get(name, "0") == "0" for name in RANKS)


def claim(folder: Path) -> bool:
    """Make `folder` and hold it until `release`, or until this process ends in whatever way.

    The lock is one of fcntl: the kernel frees it with the process, loader workers do not inherit it, and NFS has it.
    The file that carries it means nothing by itself, so one that a killed process left is taken over.

    Returns:
        Whether no other process holds it.

    Raises:
        StorageError: it cannot be made.
    """
    key, path = folder.absolute(), folder / LOCK
    if key in _held or not is_first_rank():
        return True
    with storage_errors(folder):
        while True:
            folder.mkdir(parents=True, exist_ok=True)
            file = path.open("a")
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                file.close()
                return False
            with contextlib.suppress(FileNotFoundError):
                if os.path.samestat(os.fstat(file.fileno()), path.stat()):
                    break
            file.close()  # the one who held it removed it meanwhile
    _held[key] = file
    return True


def claim_new(folder: Path) -> Path:
    """Make and hold `folder`, or the first of `folder`-2, `folder`-3 … that does not exist; asked again, the same.

    Raises:
        StorageError: it cannot be made.
    """
    if not is_first_rank():
        return folder
    for number in itertools.count(1):
        candidate = folder if number == 1 else folder.with_name(f"{folder.name}-{number}")
        if candidate.absolute() in _held:
            return candidate
        with storage_errors(candidate):
            candidate.parent.mkdir(parents=True, exist_ok=True)
            try:
                candidate.mkdir()
            except FileExistsError:
                continue
        if claim(candidate):
            return candidate
    raise AssertionError


def is_held(folder: Path) -> bool:
    """Return whether another process holds `folder`. Nothing is written."""
    if folder.absolute() in _held:  # and to close another file of that lock would give it up
        return False
    try:
        with (folder / LOCK).open("rb") as file:
            fcntl.lockf(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return True
    except OSError:
        return False
    return False


def release(*folders: Path) -> None:
    """Let go of folders, by default of all that are held; those in which nothing was written are removed."""
    for folder in [folder.absolute() for folder in folders] or list(_held):
        if (file := _held.pop(folder, None)) is None:
            continue
        with contextlib.suppress(OSError):
            (folder / LOCK).unlink(missing_ok=True)  # before another process can take it
        file.close()
        remove_if_empty(folder)
