"""Small pictures, folders and shards to read."""

import io
import json
import multiprocessing
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def encoded(number: int, size: tuple[int, int] = (20, 16), kind: str = "PNG", mode: str = "RGB") -> bytes:
    """A picture of noise that depends on its number alone."""
    pixels = np.random.default_rng(number).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, kind)
    return data.getvalue()


@pytest.fixture(autouse=True)
def no_worker_is_left() -> Iterator[None]:
    yield
    assert multiprocessing.active_children() == [], "close the loader"


@pytest.fixture
def picture() -> Callable[..., bytes]:
    return encoded


@pytest.fixture
def make_tar(tmp_path: Path) -> Callable[..., Path]:
    """Writes members (name → content) as a tar below tmp_path."""

    def write(name: str, members: dict[str, bytes]) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        with tarfile.open(path, "w") as tar:
            for member, content in members.items():
                info = tarfile.TarInfo(member)
                info.size = len(content)
                tar.addfile(info, io.BytesIO(content))
        return path

    return write


@pytest.fixture
def make_shards(make_tar: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    """Writes shards with the given numbers of samples, keys s0, s1, …; returns their folder."""

    def write(*sizes: int, folder: str = "shards", bad: frozenset[int] = frozenset()) -> Path:
        number = 0
        for shard, size in enumerate(sizes):
            members: dict[str, bytes] = {}
            for _ in range(size):
                members[f"s{number}.png"] = b"no picture" if number in bad else encoded(number)
                members[f"s{number}.txt"] = f"caption {number}".encode()
                number += 1
            make_tar(f"{folder}/{shard:02d}.tar", members)
        return tmp_path / folder

    return write


@pytest.fixture
def make_folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder of pictures with .txt captions, some of them in a folder below; returns it."""

    def write(count: int, folder: str = "pictures", captions: bool = True) -> Path:
        root = tmp_path / folder
        for number in range(count):
            path = root / ("even" if number % 2 == 0 else ".") / f"p.{number}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(encoded(number))
            if captions:
                path.with_suffix(".txt").write_text(f"caption {number}\n")
        return root

    return write


@pytest.fixture
def write_jsonl() -> Callable[[Path, list[dict]], None]:
    def write(path: Path, rows: list[dict]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write
