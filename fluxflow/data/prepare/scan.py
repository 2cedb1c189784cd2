"""Options, and a look at each sample before anything is written: header, captions and, for near duplicates, hash."""

import io
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from fluxflow.data.images.decode import UndecodableImage, decode, probe
from fluxflow.data.sources.folder import FolderShard
from fluxflow.data.sources.records import Reader, Record, Shard
from fluxflow.data.sources.shards import TarShard

PILLOW_NAMES = {"jpg": "JPEG", "png": "PNG", "webp": "WEBP"}
HASH_SIDE = 8


@dataclass(frozen=True)
class Encoding:
    """How pictures are rewritten. One that would not change keeps its bytes, unless a format is asked for.

    Args:
        size: highest length of the shorter side in pixels, None to keep it.
        crop: whether to crop the centre to a square.
        format: "jpg", "png" or "webp"; None: jpg, which decodes fastest, for pictures that change, else as they are.
        quality: quality for jpg and webp, 1 to 100.
    """

    size: int | None = None
    crop: bool = False
    format: str | None = None
    quality: int = 90

    def apply(self, data: bytes) -> tuple[bytes, str, tuple[int, int]]:
        """Check a picture by decoding it, and rewrite it.

        Returns:
            Its bytes, their suffix, and its (width, height).

        Raises:
            UndecodableImage: if it cannot be decoded.
        """
        least = None if self.size is None else (2 * self.size, 2 * self.size)  # the last halving is Lanczos's
        original = image = Image.fromarray(decode(data, least))
        if self.size is not None and min(image.size) > self.size:
            image = image.resize(shrunk(image.size, self.size), Image.Resampling.LANCZOS)
        if self.crop and image.width != image.height:
            side = min(image.size)
            left, top = (image.width - side) // 2, (image.height - side) // 2
            image = image.crop((left, top, left + side, top + side))
        if self.format is None and image is original:
            return data, suffix(data), image.size
        name, output = self.format or "jpg", io.BytesIO()
        options = {"jpg": {"quality": self.quality}, "png": {}, "webp": {"quality": self.quality, "method": 6}}[name]
        image.save(output, PILLOW_NAMES[name], **options)
        return output.getvalue(), name, image.size


def shrunk(size: tuple[int, int], shorter: int) -> tuple[int, int]:
    """The size of the same shape whose shorter side has this length."""
    width, height = (max(shorter, round(side * shorter / min(size))) for side in size)
    return width, height


def suffix(data: bytes) -> str:
    """The suffix of a picture's format, by its first bytes."""
    if data.startswith(b"\x89PNG"):
        return "png"
    return "webp" if data.startswith(b"RIFF") else "jpg"


def difference_hash(data: bytes) -> int:
    """64 bits that survive scaling and recompression: whether each cell of an 8 × 9 grey miniature is below its right
    neighbour (dHash, by N. Krawetz).

    Raises:
        UndecodableImage: if the picture cannot be decoded.
    """
    picture = Image.fromarray(decode(data, (4 * HASH_SIDE, 4 * HASH_SIDE))).convert("L")
    pixels = np.asarray(picture.resize((HASH_SIDE + 1, HASH_SIDE), Image.Resampling.BOX))
    return int.from_bytes(np.packbits(pixels[:, :-1] < pixels[:, 1:]).tobytes(), "big")


@dataclass(frozen=True)
class Options:
    """The options of the command that change its output, under their names.

    Args:
        size: highest length of the shorter side in pixels; None: as it is.
        crop: whether to crop the centre to a square.
        format: "jpg", "png" or "webp"; None: jpg for pictures that change.
        quality: for jpg and webp, 1 to 100.
        min_size: lowest length of the shorter side in pixels.
        drop_duplicates: highest number of bits (of 64) in which near duplicates differ; None: all stay.
        val_fraction: share held out by a hash of the key, in [0, 1).
        shard_samples: samples a shard.
        seed: of the order.
        caption_key: column or JSON key of the caption.
        caption_lines: whether each line of a text file is a caption.
        buckets: side of the squares whose area the buckets of the report have, in pixels.
        tokenizer: text model that counts tokens; None: words are counted.
    """

    size: int | None = None
    crop: bool = False
    format: str | None = None
    quality: int = 90
    min_size: int = 1
    drop_duplicates: int | None = None
    val_fraction: float = 0.0
    shard_samples: int = 1000
    seed: int = 0
    caption_key: str | None = None
    caption_lines: bool = False
    buckets: int = 256
    tokenizer: str | None = None

    @property
    def encoding(self) -> Encoding:
        return Encoding(self.size, self.crop, self.format, self.quality)


HEAD = 1 << 16  # bytes in which the header of nearly every JPEG lies, its EXIF data included
CHUNK = 2000  # samples of a folder that are one piece of work


@dataclass(frozen=True)
class Job:
    """What all processes share.

    Args:
        reader: opened source.
        options: what decides the output.
        out: folder of the output.
    """

    reader: Reader
    options: Options
    out: Path


def chunks(reader: Reader) -> dict[str, tuple[int, int, int | None]]:
    """The pieces of work of a scan: (shard, first sample, end), by names whose order is that of the source."""
    if reader.shard_count() > 1:
        return {f"{number:06d}": (number, 0, None) for number in range(reader.shard_count())}
    count = len(reader.open_shard(0).keys)
    return {f"{start // CHUNK:06d}": (0, start, min(start + CHUNK, count)) for start in range(0, count, CHUNK)}


def scan(job: Job, chunk: tuple[int, int, int | None]) -> dict:
    """Look at the samples of one chunk.

    Returns:
        Lists with an entry a sample: keys, sources (where it may have to be named), problems ("" for none), and hashes
        (0 where they are not needed); and of a tar, in its first chunk: "passed_over" (suffix: count) and "scattered".
    """
    number, start, end = chunk
    shard, hashed = job.reader.open_shard(number), job.options.drop_duplicates is not None
    found: dict[str, Any] = {"keys": [], "sources": [], "problems": [], "hashes": []}
    for index in range(len(shard.keys))[start:end]:
        problem, value = _look(shard, index, job.options)
        found["keys"].append(shard.keys[index])
        found["sources"].append(source_name(shard, index) if problem or hashed else "")
        found["problems"].append(problem)
        found["hashes"].append(value)
    if isinstance(shard, TarShard) and start == 0:
        found |= {"passed_over": shard.tar.passed_over, "scattered": shard.tar.scattered}
    shard.close()
    return found


def _look(shard: Shard, index: int, options: Options) -> tuple[str, int]:
    """Problem and hash of one sample."""
    try:
        record, size = _header(shard, index)
        if record.problem:
            return record.problem, 0
        if min(size) < options.min_size:
            return f"shorter side below {options.min_size} pixels", 0
        if options.drop_duplicates is None:
            return "", 0
        return "", difference_hash(shard.load(index).image)
    except UndecodableImage as error:
        return str(error), 0


def _header(shard: Shard, index: int) -> tuple[Record, tuple[int, int]]:
    """A record, perhaps with the beginning of its picture alone, and its (width, height)."""
    if isinstance(shard, FolderShard):
        record = shard.load(index, HEAD)
        whole = len(record.image) < HEAD
        if record.problem:
            return record, (0, 0)
        if whole or record.image.startswith(b"\xff\xd8"):  # the orientation of PNG and WebP may stand at their end
            try:
                return record, probe(record.image)
            except UndecodableImage:
                if whole:
                    raise
    record = shard.load(index)
    return record, (0, 0) if record.problem else probe(record.image)


def source_name(shard: Shard, index: int) -> str:
    """Where a sample is: its path in the folder, or its tar's name and its key there."""
    if isinstance(shard, FolderShard):
        return shard.files[index]
    return f"{shard.name.rpartition('/')[2]}/{shard.keys[index]}"
