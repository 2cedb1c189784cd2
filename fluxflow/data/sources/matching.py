"""What lies in a folder, which image a row of a table means, and which table is that of the captions.

Links are followed. Reading a file may neither block nor go on without end.
"""

import os
import stat
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path

from fluxflow.data.sources.records import Unusable, printable
from fluxflow.data.sources.tables import NoCaptionTable, candidates, read_table
from fluxflow.errors import DataError


@dataclass
class Listing:
    """The files of a folder and of the folders below it, by their paths below it; the hidden ones are left out.

    Args:
        files: those that can be read, by what the file system says.
        faults: links that lead nowhere, pipes and devices, and, with a slash at the end, folders that cannot be read.
        root: the folder.

    Raises:
        DataError: if the folder itself cannot be read.
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
        path: of the file.
        most: bytes that are borne.
        first: bytes that are wanted, from the beginning on; -1 for all.

    Raises:
        Unusable: if it cannot be read, is no regular file, or is larger.
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


class Names:
    """Finds pictures by names of other spellings than those of their files.

    Args:
        root: the folder.
        files: paths of its pictures below it.
    """

    def __init__(self, root: Path, files: Sequence[str]) -> None:
        self.files = dict.fromkeys(files)
        self._root = root

    def find(self, name: str) -> str | None:
        """The picture that a row names by its path, below the folder, below the one above or the current one, or whole;
        with slashes or backslashes, composed or decomposed accents and another case of the suffix. None: none, or not
        one alone."""
        if name in self.files:
            return name
        for way in (name, *self._ways(name.replace("\\", "/"))):
            found = way if way in self.files else self._folded.get(_fold(way))
            if found is not None:
                return found
        return None

    @cached_property
    def _folded(self) -> dict[str, str | None]:
        folded: dict[str, str | None] = {}
        for path in self.files:
            key = _fold(path)
            folded[key] = None if key in folded else path
        return folded

    @cached_property
    def _places(self) -> tuple[list[str], list[str]]:
        """What a name may be relative to, and the ways in which the folder is written."""
        here = os.path.abspath(self._root)  # noqa: PTH100 (links stay as they are)
        return [os.path.dirname(here), os.getcwd()], [here, os.path.realpath(here)]  # noqa: PTH109, PTH120

    def _ways(self, name: str) -> Iterable[str]:
        yield os.path.normpath(name)
        bases, roots = self._places
        for base in bases:
            whole = os.path.normpath(os.path.join(base, name))  # noqa: PTH118
            yield from (whole[len(root) + 1 :] for root in roots if whole.startswith(f"{root}/"))


def _fold(path: str) -> str:
    stem, suffix = os.path.splitext(unicodedata.normalize("NFC", path))  # noqa: PTH122
    return stem + suffix.lower()


@dataclass(frozen=True)
class Table:
    """The captions of a table, by the pictures they are of.

    Args:
        path: of the table.
        captions: by the path of each picture, in the order of its rows.
        unmatched: names that are no picture's, in the order of the rows.
        complaint: about these, in a sentence; empty if there are none.
    """

    path: Path
    captions: dict[str, tuple[object, ...]]
    unmatched: list[str]
    complaint: str


def match_table(path: Path, caption_key: str | None, pictures: Names) -> Table:
    """Read a table, and find the pictures that its rows name. Raises DataError, see `read_table`."""
    captions: dict[str, tuple[object, ...]] = {}
    rows, unmatched = read_table(path, caption_key), []
    for name, given in rows.items():
        picture = pictures.find(name)
        if picture is None:
            unmatched.append(name)
        else:
            captions[picture] = captions.get(picture, ()) + given
    complaint = ""
    if unmatched:
        first, there = printable(unmatched[0]), printable(next(iter(pictures.files)))
        complaint = (f"{len(unmatched)} of the {len(rows)} pictures that {path.name} names are not in the folder "
                     f"(first: {first}; one that is there: {there}).")  # fmt: skip
    return Table(path, captions, unmatched, complaint)


def find_table(
    root: Path, names: Iterable[str], caption_key: str | None, pictures: Names
) -> tuple[Table | None, list[DataError]]:
    """The one table of a folder that gives captions to its pictures, if there is one.

    Args:
        root: the folder.
        names: names of the files in it.
        caption_key: column of the captions, see `read_table`.
        pictures: those of the folder.

    Returns:
        The table, and why the other files that might have been one are none.

    Raises:
        DataError: for several tables, and for a broken one.
    """
    passed: list[DataError] = []
    fitting: list[Table] = []
    for path in candidates(root, names, pictures.files):
        try:
            table = match_table(path, caption_key, pictures)
        except NoCaptionTable as error:
            passed.append(error)
            continue
        if table.captions or path.name == "metadata.jsonl":  # whose name says what it is for
            fitting.append(table)
        else:
            passed.append(DataError(table.complaint or f"{path} has no row."))
    if len(fitting) > 1:
        several = ", ".join(sorted(table.path.name for table in fitting))
        raise DataError(f"{root} holds several caption tables ({several}): keep one of them, or name one (captions).")
    return (fitting[0] if fitting else None), passed
