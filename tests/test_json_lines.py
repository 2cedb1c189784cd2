from pathlib import Path

import pytest

from fluxflow.errors import StorageError
from fluxflow.json_lines import append_line, read_lines


def test_lines_are_read_as_they_were_appended(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a.jsonl"
    assert read_lines(path) == []
    rows = [{"text": "ü\n☃\ud800"}, {"values": [1.5, None], "nan": float("inf")}]
    append_line(path, rows[0])
    with path.open("ab") as file:
        file.write(b'[1]\n\n\xff\n{"half": ')
    append_line(path, rows[1])
    assert read_lines(path) == [{"text": "ü\n☃?"}, rows[1]]
    with pytest.raises(StorageError, match="cannot be written"):
        append_line(path / "below", rows[0])
