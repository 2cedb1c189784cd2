"""A look at every sample before anything is written: its header, its captions and, for near duplicates, its hash."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..decode import UndecodableImage, probe
from ..folder import FolderPiece
from ..records import Piece, Reader, Record
from ..shards import ShardPiece
from .encoding import difference_hash
from .options import Options

HEAD = 1 << 16  # bytes in which the header of nearly every JPEG lies, its EXIF data included
CHUNK = 2000  # samples of a folder that are one piece of work


@dataclass(frozen=True)
class Job:
    """What all processes share.

    Args:
        reader: Opened source.
        options: What decides the output.
        out: Folder of the output.
    """

    reader: Reader
    options: Options
    out: Path


def chunks(reader: Reader) -> dict[str, tuple[int, int, int | None]]:
    """The pieces of work of a scan: (piece, first sample, end), by names whose order is that of the source."""
    if reader.pieces() > 1:
        return {f"{number:06d}": (number, 0, None) for number in range(reader.pieces())}
    count = len(reader.piece(0).keys)
    return {f"{start // CHUNK:06d}": (0, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)}


def scan(job: Job, chunk: tuple[int, int, int | None]) -> dict:
    """Look at the samples of one chunk.

    Returns:
        Lists with an entry a sample: keys, sources (where it may have to be named), problems ("" for none), and hashes
        (0 where they are not needed); and of a tar, in its first chunk: "passed_over" (suffix: count) and "scattered".
    """
    number, start, end = chunk
    piece, hashed = job.reader.piece(number), job.options.drop_duplicates is not None
    found: dict[str, Any] = {"keys": [], "sources": [], "problems": [], "hashes": []}
    for index in range(len(piece.keys))[start:end]:
        problem, value = _look(piece, index, job.options)
        found["keys"].append(piece.keys[index])
        found["sources"].append(source_name(piece, index) if problem or hashed else "")
        found["problems"].append(problem)
        found["hashes"].append(value)
    if isinstance(piece, ShardPiece) and start == 0:
        found |= {"passed_over": piece.tar.passed_over, "scattered": piece.tar.scattered}
    piece.close()
    return found


def _look(piece: Piece, index: int, options: Options) -> tuple[str, int]:
    """Problem and hash of one sample."""
    try:
        record, size = _header(piece, index)
        if record.problem:
            return record.problem, 0
        if min(size) < options.min_size:
            return f"shorter side below {options.min_size} pixels", 0
        if options.drop_duplicates is None:
            return "", 0
        return "", difference_hash(piece.load(index).image)
    except UndecodableImage as error:
        return str(error), 0


def _header(piece: Piece, index: int) -> tuple[Record, tuple[int, int]]:
    """A record, perhaps with the beginning of its picture alone, and its (width, height)."""
    if isinstance(piece, FolderPiece):
        record = piece.load(index, HEAD)
        whole = len(record.image) < HEAD
        if record.problem:
            return record, (0, 0)
        if whole or record.image.startswith(b"\xff\xd8"):  # the orientation of PNG and WebP may stand at their end
            try:
                return record, probe(record.image)
            except UndecodableImage:
                if whole:
                    raise
    record = piece.load(index)
    return record, (0, 0) if record.problem else probe(record.image)


def source_name(piece: Piece, index: int) -> str:
    """Where a sample is: its path in the folder, or its tar's name and its key there."""
    if isinstance(piece, FolderPiece):
        return piece.files[index]
    return f"{piece.name.rpartition('/')[2]}/{piece.keys[index]}"
