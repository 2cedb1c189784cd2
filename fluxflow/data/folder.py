"""A plain folder of pictures with their captions beside them or in a table."""

from __future__ import annotations

import csv
import json
import logging
import random
from collections.abc import Iterator
from pathlib import Path

from ..errors import DataError
from .records import IMAGE_SUFFIXES, Part, Place, Record, inventory, sample_key, unique

log = logging.getLogger(__name__)

NAME_COLUMNS = ("file_name", "file", "image")
CAPTION_COLUMNS = ("text", "caption")
WAYS = "a .txt of the same name, a metadata.jsonl, or a .csv or .tsv with the columns file_name and text"


class FolderReader:
    """Reads records from a folder and the folders below it.

    The caption of a picture is its row in the table of the folder (metadata.jsonl, or one .csv or .tsv), or else the
    text file of its name.

    Args:
        root: The folder.
        caption_key: Column (or JSON key) of the caption. None: `text` or `caption`.
    """

    def __init__(self, root: str, caption_key: str | None = None) -> None:
        self.root = Path(root).expanduser()
        self.caption_key = caption_key
        self._files: list[tuple[str, str]] = []  # key, path below the root
        self._table: dict[str, str] = {}

    def __str__(self) -> str:
        return f"folder {self.root}"

    def open(self) -> None:
        """List the pictures and read the table. Raises DataError without pictures or without any caption."""
        if not self.root.is_dir():
            raise DataError(f"There is no folder {self.root}: data.train names the folder of the pictures.")
        everything = [p for p in sorted(self.root.rglob("*")) if not _is_hidden(p.relative_to(self.root))]
        pictures = [p.relative_to(self.root) for p in everything if p.suffix.lower().lstrip(".") in IMAGE_SUFFIXES]
        if not pictures:
            way = " For shards use data=shards." if any(p.suffix == ".tar" for p in everything) else ""
            raise DataError(f"No {', '.join(IMAGE_SUFFIXES)} picture in {self.root}; "
                            f"it holds {inventory(everything)}.{way}")  # fmt: skip
        self._table = read_table(self.root, self.caption_key)
        taken: set[str] = set()
        self._files = [
            (unique(sample_key(path.with_suffix("").as_posix()), taken), path.as_posix()) for path in pictures
        ]
        names = {path for _, path in self._files}
        texts = {p.relative_to(self.root).with_suffix("").as_posix() for p in everything if p.suffix.lower() == ".txt"}
        if not any(path in self._table or Path(path).with_suffix("").as_posix() in texts for path in names):
            raise DataError(f"{self.root} holds {len(names)} pictures and no caption for any of them: write {WAYS}.")
        missing = sorted(self._table.keys() - names)
        if missing:
            log.warning("%s: %d rows of its table name no picture (first: %s)", self, len(missing), missing[0])

    def count(self) -> int:
        """Number of pictures."""
        return len(self._files)

    def shuffled(self, order: str, place: Place, part: Part) -> Iterator[Record]:
        """One pass: a permutation of all the part's pictures, of which this place takes every n-th."""
        files = [file for file in self._files if file[0] in part]
        random.Random(order).shuffle(files)
        return map(self._record, files[place.index :: place.count])

    def ordered(self, part: Part) -> Iterator[Record]:
        """Every picture of a part, sorted by path."""
        return (self._record(file) for file in self._files if file[0] in part)

    def _record(self, file: tuple[str, str]) -> Record:
        key, name = file
        path = self.root / name
        text = path.with_suffix(".txt")
        try:
            if name in self._table:
                caption = self._table[name]
            elif text.is_file():
                caption = text.read_text("utf-8-sig").strip()
            else:
                return Record(key, problem="no caption")
            return Record(key, path.read_bytes(), (caption,), "" if caption else "empty caption")
        except UnicodeDecodeError:
            return Record(key, problem="caption that is no UTF-8 text")
        except OSError as error:
            return Record(key, problem=f"unreadable file ({error.strerror})")


def _is_hidden(path: Path) -> bool:
    return any(part.startswith(".") for part in path.parts)


def read_table(root: Path, caption_key: str | None) -> dict[str, str]:
    """Captions by path, from the one table in a folder; empty if there is no table.

    Raises:
        DataError: For several tables, missing columns or broken rows.
    """
    tables = sorted(p for p in root.iterdir() if p.name == "metadata.jsonl" or p.suffix.lower() in (".csv", ".tsv"))
    if not tables:
        return {}
    if len(tables) > 1:
        raise DataError(f"{root} holds several caption tables ({', '.join(t.name for t in tables)}): keep one of them.")
    table = tables[0]
    rows = _json_rows(table) if table.suffix == ".jsonl" else _csv_rows(table)
    try:
        return _captions(table, rows, caption_key)
    except (UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{table} cannot be read as UTF-8 text: {error}") from None


def _captions(table: Path, rows: Iterator[tuple[int, dict]], caption_key: str | None) -> dict[str, str]:
    captions: dict[str, str] = {}
    for line, row in rows:
        name = next((row[column] for column in NAME_COLUMNS if column in row), None)
        caption = next((row[c] for c in ([caption_key] if caption_key else CAPTION_COLUMNS) if c in row), None)
        if not isinstance(name, str) or not isinstance(caption, str):
            wanted = caption_key or " or ".join(CAPTION_COLUMNS)
            raise DataError(f"{table}, line {line}: it needs {' or '.join(NAME_COLUMNS)}, and {wanted}; "
                            f"it has {', '.join(map(str, row))}.")  # fmt: skip
        captions[Path(name).as_posix()] = caption.strip()
    return captions


def _json_rows(table: Path) -> Iterator[tuple[int, dict]]:
    with table.open(encoding="utf-8-sig") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except json.JSONDecodeError as error:
                raise DataError(f"{table}, line {line} is no JSON: {error}") from None
            if not isinstance(row, dict):
                raise DataError(f"{table}, line {line} is no JSON object.")
            yield line, row


def _csv_rows(table: Path) -> Iterator[tuple[int, dict]]:
    with table.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
        for row in reader:
            yield reader.line_num, row
