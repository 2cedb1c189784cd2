"""Several files of a folder that become visible together, by the one rename of the index among them.

The index names a revision, a hash over all of them. What changes is first written whole beside its place, under a name
with the revision; then the index is replaced; then the files are renamed into place. A reader takes the file with the
index's revision where there is one: a writer that was killed at any point leaves the old files or the new ones, and the
next writer finishes or removes what it left. At rest every file has its plain name.
"""

import hashlib
import json
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, BinaryIO

from fluxflow.files import PARTIAL, rename, replacing, storage_errors
from fluxflow.formats import REVISION, REVISION_DIGITS

PENDING = ".pending"


@dataclass(frozen=True)
class Content:
    """What a file shall hold.

    Args:
        digest: identifies it.
        write: writes it.
        digest_of: that of what lies at a path, or None where nothing whole does.
    """

    digest: str
    write: Callable[[BinaryIO], object]
    digest_of: Callable[[Path], str | None]


def text_content(text: bytes) -> Content:
    """Return the content of a small file."""
    return Content(hashlib.sha256(text).hexdigest(), lambda file: file.write(text), _digest_of_text)


def publish(folder: Path, contents: Mapping[str, Content], index_name: str, index: Mapping[str, Any]) -> None:
    """Replace files of `folder` and its index together; a file that holds its content already is left alone.

    Args:
        folder: of the files.
        contents: by path below `folder`.
        index_name: the JSON file without which no reader looks at the others.
        index: what it says besides the revision.

    Raises:
        StorageError: a file cannot be written; the folder is as it was.
    """
    digests = {name: content.digest for name, content in contents.items()}
    revision = hashlib.sha256(json.dumps([digests, index], sort_keys=True).encode()).hexdigest()[:16]
    changed: list[Path] = []
    with storage_errors(folder):
        _settle(folder, revision_of(folder / index_name))
        try:
            for name, content in contents.items():
                if content.digest_of(folder / name) != content.digest:
                    changed.append(folder / name)
                    with replacing(pending(folder / name, revision)) as file:
                        content.write(file)
            with replacing(folder / index_name) as file:
                file.write((json.dumps({**index, REVISION: revision}, indent=2) + "\n").encode())
        except BaseException:
            for path in changed if revision_of(folder / index_name) != revision else ():
                with suppress(OSError):
                    pending(path, revision).unlink(missing_ok=True)
            raise
        _settle(folder, revision)


@contextmanager
def settled(folder: Path, revision: str | None) -> Iterator[Path]:
    """Give a folder whose files are those of a revision under their plain names, for readers that know only these."""
    if not any(folder.glob(f"*{PENDING}")):
        yield folder
        return
    with TemporaryDirectory() as view:
        names = {path.name.removesuffix(f".{revision}{PENDING}") for path in folder.iterdir() if path.is_file()}
        for name in (name for name in names if not name.endswith(PENDING)):
            shutil.copyfile(current(folder / name, revision), Path(view) / name)
        yield Path(view)


def _settle(folder: Path, revision: str | None) -> None:
    """Rename the files of the index's revision into place, and remove those of writers that did not come so far."""
    for left in [*folder.glob(f"*{PENDING}"), *folder.glob(f"*/*{PENDING}")]:
        path = left.with_name(left.name.removesuffix(PENDING).rpartition(".")[0])
        if left == pending(path, revision):
            rename(left, path)
        else:
            left.unlink()
    for partial in folder.glob(f"*/*{PENDING}.*{PARTIAL}"):
        partial.unlink()


def _digest_of_text(path: Path) -> str | None:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else None


def revision_of(index: Path) -> str | None:
    """Return the revision that the index of a model names, None where there is none that can be read."""
    try:
        content = json.loads(index.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None
    revision = content.get(REVISION) if isinstance(content, dict) else None
    return revision if isinstance(revision, str) and REVISION_DIGITS.fullmatch(revision) else None


def current(path: Path, revision: str | None) -> Path:
    """Return the file that holds what `path` is in a revision: a killed writer may not have renamed it yet."""
    if not isinstance(revision, str) or not revision.isalnum():
        return path
    waiting = pending(path, revision)
    return waiting if waiting.is_file() else path


def pending(path: Path, revision: str | None) -> Path:
    """Return where the content of `path` waits until the index names its revision."""
    return path.with_name(f"{path.name}.{revision}{PENDING}")
