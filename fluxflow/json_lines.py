"""Files of JSON Lines: an object a line, written whole and read leniently."""

import contextlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluxflow.files import append_whole, storage_errors


def append_line(path: Path, row: Mapping[str, Any]) -> None:
    """Append a line to a file of JSON Lines, whole or not at all. Raises StorageError."""
    line = (json.dumps(row, ensure_ascii=False) + "\n").encode("utf-8", "replace")
    with storage_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab+") as file:
            size = os.fstat(file.fileno()).st_size
            torn = size and os.pread(file.fileno(), 1, size - 1) != b"\n"  # by a power cut
            append_whole(file.fileno(), b"\n" + line if torn else line)


def read_lines(path: Path) -> list[dict[str, Any]]:
    """Return the objects in a file of JSON Lines, none where there is no such file; other lines are passed over."""
    if not path.is_file():
        return []
    rows = []
    for line in path.read_bytes().splitlines():
        with contextlib.suppress(ValueError, RecursionError):  # the half of a line that a power cut left
            rows.append(json.loads(line))
    return [row for row in rows if isinstance(row, dict)]
