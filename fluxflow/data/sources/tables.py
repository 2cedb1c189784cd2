"""Captions from a table: metadata.jsonl, csv, tsv, parquet, or the JSON of COCO captions.

A table gives the captions of a picture by its path below the folder, in the order of its rows: a row holds one caption
or (jsonl, parquet) a list, and a picture may have several rows. Text that is no UTF-8 arrives with surrogates, so that
it spoils its own sample and not the table.
"""

import csv
import json
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path, PurePosixPath

from fluxflow.errors import DataError

NAME_COLUMNS = ("file_name", "file", "image")
CAPTION_COLUMNS = ("text", "caption", "captions")
WAYS = ("a .txt of the same name, a metadata.jsonl, a .csv, .tsv or .parquet with the columns file_name and text, "
        "or the .json of COCO captions")  # fmt: skip

Row = tuple[str, dict]  # where it stands, for messages, and its columns


class NoCaptionTable(DataError):
    """A file that holds no captions from its first row on; the message says what it would need."""


def usable(captions: Iterable[object]) -> tuple[tuple[str, ...], str]:
    """The captions that can be used, stripped, and the reason why none can, or "".

    Args:
        captions: of one picture; None stands for one that is not there.
    """
    given = [caption for caption in captions if caption is not None]
    if not all(isinstance(caption, str) for caption in given):
        return (), "caption that is no string"
    texts = [str(caption).strip() for caption in given]
    if any("\ud800" <= letter <= "\udfff" for text in texts for letter in text):
        return (), "caption that is no UTF-8 text"
    kept = tuple(text for text in texts if text)
    return kept, "" if kept else ("empty caption" if texts else "no caption")


def candidates(root: Path, names: Iterable[str], pictures: Iterable[str]) -> list[Path]:
    """The files of a folder that may be tables of captions, by their names, or for .json by what is in them.

    Args:
        root: the folder.
        names: names of the files in it.
        pictures: paths of its pictures; a .json beside one is no table.
    """
    stems = {Path(path).stem for path in pictures if "/" not in path}
    tables = [name for name in names if name == "metadata.jsonl" or Path(name).suffix.lower() in TABLES]
    others = [name for name in names if Path(name).suffix.lower() == ".json" and Path(name).stem not in stems]
    return [root / name for name in [*tables, *(name for name in others if _is_coco(root / name))]]


def read_table(table: Path, caption_key: str | None) -> dict[str, tuple[object, ...]]:
    """Captions by path, as they stand there.

    Args:
        table: a .jsonl, .csv, .tsv, .parquet or COCO .json file.
        caption_key: column (or JSON key) of the caption; None: one of `CAPTION_COLUMNS`.

    Raises:
        NoCaptionTable: for a file whose first row cannot be read or lacks the columns.
        DataError: for a file of another kind, or broken rows further on.
    """
    reader = READERS.get(table.suffix.lower())
    if reader is None:
        raise DataError(f"{table} is no caption table: it can be {', '.join(READERS)}, or 'files' for the .txt alone.")
    try:
        return _captions(table, reader(table), (caption_key,) if caption_key else CAPTION_COLUMNS)
    except csv.Error as error:
        raise DataError(f"{table} cannot be read: {error}.") from None
    except OSError as error:
        raise DataError(f"{table} cannot be read: {error.strerror or error}.") from None


def _captions(table: Path, rows: Iterable[Row], columns: tuple[str, ...]) -> dict[str, tuple[object, ...]]:
    captions: dict[str, tuple[object, ...]] = {}
    first, found = None, False
    for place, row in _begun(table, rows):
        name = next((row[column] for column in NAME_COLUMNS if column in row), None)
        if not isinstance(name, str):
            kind = NoCaptionTable if first is None else DataError
            raise kind(f"{table}, {place}: it needs {' or '.join(NAME_COLUMNS)}; it has {_columns(row)}.")
        first = first or (place, row)
        column = next((column for column in columns if column in row), None)
        found = found or column is not None
        value = None if column is None else row[column]
        path = PurePosixPath(name).as_posix()
        captions[path] = captions.get(path, ()) + (tuple(value) if isinstance(value, list) else (value,))
    if first is not None and not found:
        raise NoCaptionTable(f"{table}, {first[0]}: it needs {' or '.join(columns)}; it has {_columns(first[1])}.")
    return captions


def _begun(table: Path, rows: Iterable[Row]) -> Iterator[Row]:
    """The rows, of which a first one that cannot be read says that this is no table of captions."""
    rows = iter(rows)
    try:
        first = next(rows, None)
    except (DataError, csv.Error) as error:
        raise NoCaptionTable(
            str(error) if isinstance(error, DataError) else f"{table} cannot be read: {error}."
        ) from None
    if first is not None:
        yield first
        yield from rows


def _columns(row: dict) -> str:
    return ", ".join(map(str, row)) or "none"


def _json_rows(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8-sig", errors="surrogateescape") as file:
        for line, text in enumerate(file, start=1):
            if not text.strip():
                continue
            try:
                row = json.loads(text)
            except (json.JSONDecodeError, RecursionError) as error:
                raise DataError(f"{table}, line {line} is no JSON: {error}.") from None
            if not isinstance(row, dict):
                raise DataError(f"{table}, line {line} is no JSON object.")
            yield f"line {line}", row


def _csv_rows(table: Path) -> Iterator[Row]:
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        reader = csv.DictReader(file, delimiter="\t" if table.suffix.lower() == ".tsv" else ",")
        for row in reader:
            row.pop(None, None)  # cells without a heading
            yield f"line {reader.line_num}", row


def _parquet_rows(table: Path) -> Iterator[Row]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError:
        raise DataError(f'{table} needs pyarrow, which is not installed: pip install "fluxflow[parquet]".') from None
    try:
        with parquet.ParquetFile(table) as file:
            rows = (row for batch in file.iter_batches() for row in batch.to_pylist())
            yield from ((f"row {number}", row) for number, row in enumerate(rows, start=1))
    except ArrowException as error:
        raise DataError(f"{table} is no parquet file that can be read: {error}.") from None


def _load_json(table: Path) -> object:
    try:
        return json.loads(table.read_text("utf-8-sig", "surrogateescape"))
    except (json.JSONDecodeError, RecursionError):
        return None


def _is_coco(table: Path) -> bool:
    content = _load_json(table)
    return isinstance(content, dict) and {"images", "annotations"} <= content.keys()


def _coco_rows(table: Path) -> Iterator[Row]:
    content = _load_json(table)
    try:
        if not isinstance(content, dict):
            raise TypeError
        names = {image["id"]: image["file_name"] for image in content["images"]}
        for number, annotation in enumerate(content["annotations"], start=1):
            name = names[annotation["image_id"]]
            yield f"annotation {number}", annotation | {"file_name": name}
    except (KeyError, TypeError):
        raise DataError(f"{table} is no JSON of COCO captions: it needs images with id and file_name, and annotations "
                        "whose image_id is one of these.") from None  # fmt: skip


TABLES = (".csv", ".tsv", ".parquet")
READERS: dict[str, Callable[[Path], Iterator[Row]]] = {
    ".jsonl": _json_rows,
    ".csv": _csv_rows,
    ".tsv": _csv_rows,
    ".parquet": _parquet_rows,
    ".json": _coco_rows,
}
