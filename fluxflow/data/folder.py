"""A plain folder of pictures with their captions beside them or in a table."""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from ..errors import DataError
from .records import IMAGE_SUFFIXES, Record, inventory, sample_key, unique
from .tables import WAYS, find_table, read_table, usable

log = logging.getLogger(__name__)

SURROGATE = re.compile("[\ud800-\udfff]")  # what stands for the bytes of a file name that is no UTF-8


class FolderReader:
    """Reads records from a folder and the folders below it, as one piece.

    The captions of a picture are its rows in the table, or else the text file of its name.

    Args:
        root: The folder.
        caption_key: Column (or JSON key) of the caption. None: `text`, `caption` or `captions`.
        captions: The table, with paths below the folder. None: the one that lies in the folder, if there is one.
        caption_lines: Whether each line of a text file is a caption of its own; else the file is one.
    """

    def __init__(
        self, root: str, caption_key: str | None = None, captions: str | None = None, caption_lines: bool = False
    ) -> None:
        self.root = Path(root).expanduser()
        self.caption_key = caption_key
        self.captions = captions
        self.caption_lines = caption_lines
        self.rows_without_picture: list[str] = []
        self.other_files: Counter[str] = Counter()  # by suffix
        self._keys: list[str] = []
        self._files: list[str] = []  # paths below the root
        self._texts: set[str] = set()  # those of them that have a text file
        self._table_path: Path | None = None
        self._table: dict[str, tuple[object, ...]] = {}

    def __str__(self) -> str:
        return f"folder {self.root}"

    def open(self) -> None:
        """List the pictures and read the table. Raises DataError without pictures or without any caption."""
        if not self.root.is_dir():
            raise DataError(f"There is no folder {self.root}: data.train names the folder of the pictures.")
        everything = sorted(_walk(self.root))
        self._files = [path for path in everything if _suffix(path)[1:] in IMAGE_SUFFIXES]
        if not self._files:
            way = " For shards use data=shards." if any(path.endswith(".tar") for path in everything) else ""
            raise DataError(f"No {', '.join(IMAGE_SUFFIXES)} picture in {self.root}; "
                            f"it holds {inventory(map(self.root.joinpath, everything))}.{way}")  # fmt: skip
        taken: set[str] = set()
        self._keys = [unique(SURROGATE.sub("_", sample_key(_stem(path))), taken) for path in self._files]
        names = set(self._files)
        texts = {path for path in everything if path.endswith(".txt")}
        self._texts = {path for path in self._files if f"{_stem(path)}.txt" in texts}
        self._open_table([path for path in everything if "/" not in path])
        if not any(path in self._table or path in self._texts for path in self._files):
            raise DataError(f"{self.root} holds {len(names)} pictures and no caption for any of them: write {WAYS}.")
        self.other_files = Counter(map(_suffix, set(everything) - names - texts - {str(self._table_path)}))
        self.rows_without_picture = sorted(self._table.keys() - names)
        if self.rows_without_picture:
            log.warning("%s: %d rows of its table name no picture (first: %s)",
                        self, len(self.rows_without_picture), self.rows_without_picture[0])  # fmt: skip

    def _open_table(self, names: list[str]) -> None:
        if self.captions is None:
            stems = {_stem(path) for path in self._files if "/" not in path}
            self._table_path = find_table(self.root, names, stems)
        else:
            self._table_path = Path(self.captions).expanduser()
        self._table = {} if self._table_path is None else read_table(self._table_path, self.caption_key)

    def pieces(self) -> int:
        """The folder is one piece."""
        return 1

    def piece(self, number: int) -> FolderPiece:
        """All of it."""
        if number != 0:
            raise IndexError(number)
        return FolderPiece(self.root, self._keys, self._files, self._texts, self._table, self.caption_lines)

    def fingerprint(self) -> str:
        """Hash of the paths and sizes of pictures and text files, of the table's bytes and of how they are read."""
        digest = hashlib.sha256(f"{self.caption_key} {self.caption_lines}\n".encode())
        try:
            for path in self._files:
                sizes = [(self.root / path).stat().st_size]
                sizes += [(self.root / f"{_stem(path)}.txt").stat().st_size] if path in self._texts else []
                digest.update(f"{path}\0{sizes}\n".encode("utf-8", "surrogateescape"))
            if self._table_path is not None:
                with self._table_path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
        except OSError as error:
            raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
        return digest.hexdigest()


class FolderPiece:
    """The pictures of a folder, each read when it is asked for.

    Args:
        root: The folder.
        keys: Of the pictures.
        files: Their paths below the root.
        texts: Those paths beside which a text file lies.
        table: Captions by path.
        caption_lines: Whether each line of a text file is a caption.
    """

    def __init__(
        self,
        root: Path,
        keys: Sequence[str],
        files: Sequence[str],
        texts: set[str],
        table: Mapping[str, tuple[object, ...]],
        caption_lines: bool,
    ) -> None:
        self.root = root
        self.name = str(root)
        self.keys = keys
        self.files = files
        self._texts = texts
        self._table = table
        self._caption_lines = caption_lines

    def load(self, index: int, first: int = -1) -> Record:
        """Read one picture and its captions.

        Args:
            index: Of `keys`.
            first: Bytes of the picture that are wanted, which may be just its header; -1 for all.
        """
        key, name = self.keys[index], self.files[index]
        try:
            captions, problem = usable(self._given(name))
            if problem:
                return Record(key, problem=problem)
            with (self.root / name).open("rb") as file:
                return Record(key, file.read(first), captions)
        except OSError as error:
            return Record(key, problem=f"unreadable file ({error.strerror})")

    def close(self) -> None:
        """Nothing stays open."""

    def _given(self, name: str) -> Sequence[object]:
        if name in self._table:
            return self._table[name]
        if name not in self._texts:
            return ()
        text = (self.root / f"{_stem(name)}.txt").read_text("utf-8-sig", "surrogateescape")
        return text.splitlines() if self._caption_lines and text.strip() else [text]


def _walk(root: Path) -> Iterator[str]:
    """The paths of all files below a folder, without hidden files and folders."""
    for folder, folders, files in os.walk(root, onerror=_refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        below = Path(folder).relative_to(root).as_posix()
        start = "" if below == "." else f"{below}/"
        yield from (start + name for name in files if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    dot = name.rfind(".")
    return folder + slash + (name[:dot] if dot > 0 else name)


def _suffix(path: str) -> str:
    return path[len(_stem(path)) :].lower()
