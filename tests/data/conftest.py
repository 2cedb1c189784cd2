"""Small pictures, folders and shards to read."""

import io
import json
import multiprocessing
import tarfile
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from fluxflow.data.latents.cache import FORMAT, LatentRecord, write_index, write_key, write_shard


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
def make_cache(tmp_path: Path) -> Callable[..., Path]:
    """Writes a cache with shards of the given numbers of samples, keys s0, s1, …, those in 3 of another shape."""

    def write(*sizes: int, folder: str = "cache", mirrored: bool = True) -> Path:
        number = 0
        transform = {"image_size": 8, "mirrored": mirrored}
        write_key(tmp_path / folder, {"format": FORMAT, "vae": "v" * 64, "text": "t" * 64, "transform": transform,
                                      "source": {}, "locations": {}})  # fmt: skip
        for split in ("train", "val"):
            paths = []
            for shard, size in enumerate(sizes):
                paths.append(tmp_path / folder / split / f"{shard:05d}-000.safetensors")
                write_shard(paths[-1], [latents(n, mirrored) for n in range(number, number + size)])
                number += size
            write_index(paths)
        return tmp_path / folder

    return write


def latents(number: int, mirrored: bool = True) -> LatentRecord:
    """A cached sample of noise, exact in half precision, that depends on its number alone."""
    generator = torch.Generator().manual_seed(number)
    shape = (4, 2, 3) if number % 10 == 3 else (4, 2, 2)
    noise = [torch.randint(-64, 64, shape, generator=generator) / 16 for _ in range(4)]
    return LatentRecord(
        f"s{number}",
        captions=tuple(f"caption {number} {letter}" for letter in "ab"[: 1 + number % 2]),
        size=(4 * shape[1], 4 * shape[2]),
        posterior=(noise[0], noise[1]),
        mirrored=(noise[2], noise[3]) if mirrored and number % 5 else None,
        text=torch.full((1 + number % 2, 6), number / 8) + torch.arange(1 + number % 2)[:, None],
        no_text=torch.full((6,), -1.0),
        source=f"tar {number // 7}",
    )


@pytest.fixture
def write_jsonl() -> Callable[[Path, list[dict]], None]:
    def write(path: Path, rows: list[dict]) -> None:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))

    return write
