"""Running the command in this process."""

from collections.abc import Callable
from pathlib import Path

import pytest

from fluxflow.data.prepare.__main__ import main
from fluxflow.data.sources.records import Record


def read(reader) -> dict[str, Record]:
    """The records of a source by key."""
    reader.open()
    shards = [reader.open_shard(number) for number in range(reader.shard_count())]
    return {record.key: record for shard in shards for record in map(shard.load, range(len(shard.keys)))}


def written(folder: Path) -> dict[str, bytes]:
    """Every file of a folder, the hidden ones too, by its path in it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()
    }


@pytest.fixture
def records() -> Callable[..., dict[str, Record]]:
    return read


@pytest.fixture
def files() -> Callable[[Path], dict[str, bytes]]:
    return written


@pytest.fixture
def prepare() -> Callable[..., int]:
    """Runs the command in one process, unless its options say otherwise."""

    def run(source: Path, out: Path, *options: str) -> int:
        return main([str(source), str(out), "--processes", "1", *options])

    return run
