"""A plain folder of pictures with their captions beside them or in a table."""

import hashlib
import logging
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from fluxflow.data.sources.matching import Listing, Names, Table, find_table, match_table, read_regular
from fluxflow.data.sources.records import (
    IMAGE_SUFFIXES,
    MAX_CAPTION,
    MAX_PICTURE,
    Record,
    Unusable,
    inventory,
    printable,
    sample_key,
    unique,
)
from fluxflow.data.sources.tables import WAYS, usable
from fluxflow.errors import DataError

log = logging.getLogger(__name__)

FILES = "files"  # the value of `captions` that leaves tables alone


class FolderReader:
    """Reads records from a folder and the folders below it, links followed, as one shard.

    The captions of a picture are its rows in the table, or else the text file of its name.

    Args:
        root: the folder.
        caption_key: column (or JSON key) of the caption. None: `text`, `caption` or `captions`.
        captions: the table, with paths below the folder; "files": none, the text files alone. None: the one that lies
            in the folder and names pictures of it, if there is one.
        caption_lines: whether each line of a text file is a caption of its own; else the file is one.
        needs_captions: whether a picture without a caption that can be used is rejected.

    Attributes:
        rows_without_picture: names in the table that are no picture's.
        other_files: files that are neither pictures nor captions, by suffix.
        caption_files: pictures whose captions lie in the table and in text files, by its name and ".txt".
    """

    def __init__(
        self,
        root: str,
        caption_key: str | None = None,
        captions: str | None = None,
        caption_lines: bool = False,
        needs_captions: bool = True,
    ) -> None:
        self.root = Path(root).expanduser()
        self.caption_key = caption_key
        self.captions = captions
        self.caption_lines = caption_lines
        self.needs_captions = needs_captions
        self.rows_without_picture: list[str] = []
        self.other_files: Counter[str] = Counter()
        self.caption_files: Counter[str] = Counter()
        self._keys: list[str] = []
        self._files: list[str] = []  # paths below the root
        self._texts: dict[str, str] = {}  # the text file of each that has one
        self._table: Table | None = None

    def __str__(self) -> str:
        return f"folder {self.root}"

    def open(self) -> None:
        """List the pictures and read the table. Raises DataError without pictures, or without any caption of need."""
        if not self.root.is_dir():
            raise DataError(f"There is no folder {self.root}: data.train names the folder of the pictures.")
        listing = Listing(self.root)
        everything = sorted(listing.files + listing.faults)
        faults = set(listing.faults)
        self._files = [path for path in everything if _suffix(path)[1:] in IMAGE_SUFFIXES or _is_lost(path, faults)]
        if not self._files:
            way = " For shards use data=shards." if any(path.endswith(".tar") for path in everything) else ""
            raise DataError(f"No {', '.join(IMAGE_SUFFIXES)} picture in {self.root}; "
                            f"it holds {inventory(map(self.root.joinpath, everything))}.{way}")  # fmt: skip
        taken: set[str] = set()
        self._keys = [unique(sample_key(_stem(path)), taken) for path in self._files]
        texts = {_stem(path): path for path in everything if _suffix(path) == ".txt"}  # .txt is behind .TXT
        self._texts = {path: texts[_stem(path)] for path in self._files if _stem(path) in texts}
        names = Names(self.root, self._files)
        self._table, passed = self._find_table([path for path in listing.files if "/" not in path], names)
        self._count(everything, texts)
        if self.needs_captions and not self.caption_files:
            self._refuse(passed)
        if passed:
            log.warning("%s: %d tables are passed over, since they give no caption to its pictures (first: %s)",
                        self, len(passed), printable(str(passed[0])))  # fmt: skip

    def _find_table(self, names: list[str], pictures: Names) -> tuple[Table | None, list[DataError]]:
        """The table of this folder, and why others are none."""
        if self.captions == FILES:
            return None, []
        if self.captions is not None:
            return match_table(Path(self.captions).expanduser(), self.caption_key, pictures), []
        return find_table(self.root, names, self.caption_key, pictures)

    def _count(self, everything: list[str], texts: Mapping[str, str]) -> None:
        """Count where captions come from, and what comes from nowhere or leads nowhere."""
        table = "" if self._table is None else self._table.path.name
        rows = {} if self._table is None else self._table.captions
        both = sum(path in rows for path in self._texts)
        self.caption_files = +Counter({table: len(rows), ".txt": len(self._texts) - both})
        known = {*self._files, *texts.values(), table}
        self.other_files = Counter(_suffix(path) for path in everything if path not in known)
        if both:
            log.warning("%s: %d pictures have a .txt and rows in %s, which are taken; data.reader.captions=%s takes "
                        "the .txt", self, both, table, FILES)  # fmt: skip
        if self._table is not None and self._table.unmatched:
            self.rows_without_picture = self._table.unmatched
            log.warning("%s: %s", self, self._table.complaint)

    def _refuse(self, passed: list[DataError]) -> None:
        """Raises DataError, with the best reason why there is no caption."""
        if self._table is not None and self._table.unmatched:
            reason = f": {self._table.complaint}"
        elif passed:
            reason = f": {passed[0]}"
        else:
            reason = f": write {WAYS}."
        raise DataError(f"{self.root} holds {len(self._files)} pictures and no caption for any of them{reason}")

    def shard_count(self) -> int:
        """The folder is one shard."""
        return 1

    def open_shard(self, number: int) -> "FolderShard":
        """All of it."""
        if number != 0:
            raise IndexError(number)
        table = {} if self._table is None else self._table.captions
        return FolderShard(
            self.root, self._keys, self._files, self._texts, table, self.caption_lines, self.needs_captions
        )

    def fingerprint(self) -> str:
        """Hash of the paths and sizes of pictures and text files, of the table's bytes and of how they are read."""
        digest = hashlib.sha256(f"{self.caption_key} {self.caption_lines}\n".encode())
        for path in self._files:
            sizes = [self._size(path)] + ([self._size(self._texts[path])] if path in self._texts else [])
            digest.update(f"{path}\0{sizes}\n".encode("utf-8", "surrogateescape"))
        if self._table is not None:
            try:
                with self._table.path.open("rb") as file:
                    while block := file.read(1 << 20):
                        digest.update(block)
            except OSError as error:
                raise DataError(f"{error.filename} cannot be read: {error.strerror}.") from None
        return digest.hexdigest()

    def _size(self, path: str) -> int | None:
        """In bytes; None for what cannot be read, which is rejected when it is its turn."""
        try:
            return (self.root / path).stat().st_size
        except OSError:
            return None


class FolderShard:
    """The pictures of a folder, each read when it is asked for.

    Args:
        root: the folder.
        keys: of the pictures.
        files: their paths below the root.
        texts: the paths of their text files, of those that have one.
        table: captions by path.
        caption_lines, needs_captions: as of the reader.
    """

    def __init__(
        self,
        root: Path,
        keys: Sequence[str],
        files: Sequence[str],
        texts: Mapping[str, str],
        table: Mapping[str, tuple[object, ...]],
        caption_lines: bool,
        needs_captions: bool,
    ) -> None:
        self.root = root
        self.name = str(root)
        self.keys = keys
        self.files = files
        self._texts = texts
        self._table = table
        self._caption_lines = caption_lines
        self._needs_captions = needs_captions

    def load(self, index: int, first: int = -1) -> Record:
        """Read one picture and its captions.

        Args:
            index: of `keys`.
            first: bytes of the picture that are wanted, which may be just its header; -1 for all.
        """
        key, name = self.keys[index], self.files[index]
        if name.endswith("/"):
            return Record(key, problem="unreadable folder")
        try:
            image = read_regular(self.root / name, MAX_PICTURE, first)
        except Unusable as error:
            return Record(key, problem=str(error))
        captions, problem = self._captions(name)
        return Record(key, problem=problem) if problem and self._needs_captions else Record(key, image, captions)

    def close(self) -> None:
        """Nothing stays open."""

    def _captions(self, name: str) -> tuple[tuple[str, ...], str]:
        """The captions of a picture, or what is wrong with them."""
        if name in self._table:
            return usable(self._table[name])
        if name not in self._texts:
            return usable(())
        try:
            text = read_regular(self.root / self._texts[name], MAX_CAPTION).decode("utf-8-sig", "surrogateescape")
            text = text.replace("\r\n", "\n").replace("\r", "\n")
        except Unusable as error:
            return (), str(error)
        return usable(text.splitlines() if self._caption_lines and text.strip() else [text])


def _is_lost(path: str, faults: set[str]) -> bool:
    """Whether behind a path there may have been pictures: a folder that cannot be read, or a link to one."""
    return path in faults and (path.endswith("/") or not _suffix(path))


def _stem(path: str) -> str:
    folder, slash, name = path.rpartition("/")
    dot = name.rfind(".")
    return folder + slash + (name[:dot] if dot > 0 else name)


def _suffix(path: str) -> str:
    return path[len(_stem(path)) :].lower()
