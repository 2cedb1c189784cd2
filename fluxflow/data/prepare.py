"""Make WebDataset shards from a folder of captioned pictures, or from other shards.

    python -m fluxflow.data.prepare pictures/ shards/ --size 256 --crop

writes shards/train/00000.tar ... and shards/val/00000.tar ..., for `data=shards data.train=shards/train
data.val=shards/val`. The same input and options give the same bytes.
"""

from __future__ import annotations

import argparse
import io
import os
import sys
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path

from PIL import Image

from ..errors import DataError, FluxFlowError
from .decode import UndecodableImage, decode
from .folder import FolderReader
from .order import Order, Walk
from .progress import with_progress
from .records import ALONE, Part, Reader, Record, unique
from .shards import ShardReader
from .tally import Rejected, Tally
from .writer import ShardWriter

SUFFIXES = {"JPEG": "jpg", "PNG": "png", "WEBP": "webp"}


@dataclass(frozen=True)
class Encoding:
    """How pictures are rewritten. Without a size and a format their bytes are kept.

    Args:
        size: Length of the shorter side in pixels, None to keep it.
        crop: Whether to crop the centre to a square.
        format: "jpg", "png" or "webp"; None: webp for pictures that change, else as they are.
        quality: Quality for jpg and webp, 1 to 100.
    """

    size: int | None = None
    crop: bool = False
    format: str | None = None
    quality: int = 90

    def apply(self, record: Record) -> tuple[Record, str]:
        """Check a record, rewrite its picture; returns the record and its picture's suffix, or sets its problem."""
        if record.problem:
            return record, ""
        try:
            image = Image.fromarray(decode(record.image, (2 * self.size, 2 * self.size) if self.size else None))
        except UndecodableImage as error:
            return replace(record, problem=str(error)), ""
        if self.size is None and self.format is None and not self.crop:
            with Image.open(io.BytesIO(record.image)) as original:
                return record, SUFFIXES.get(original.format or "", "jpg")
        image = resize_shorter(image, self.size) if self.size else image
        image = crop_square(image) if self.crop else image
        suffix, data = self.format or "webp", io.BytesIO()
        kind = next(kind for kind, name in SUFFIXES.items() if name == suffix)
        options = {} if suffix == "png" else {"quality": self.quality}
        image.save(data, kind, **options, **({"method": 6} if suffix == "webp" else {}))
        return replace(record, image=data.getvalue()), suffix


def resize_shorter(image: Image.Image, size: int) -> Image.Image:
    """Resize, antialiased, so that the shorter side has `size` pixels; unchanged where it already has."""
    shorter = min(image.size)
    if shorter == size:
        return image
    width, height = (max(size, round(side * size / shorter)) for side in image.size)
    return image.resize((width, height), Image.Resampling.LANCZOS)


def crop_square(image: Image.Image) -> Image.Image:
    """The square in the centre."""
    size = min(image.size)
    left, top = (image.width - size) // 2, (image.height - size) // 2
    return image.crop((left, top, left + size, top + size))


def find_reader(source: str, caption_key: str | None) -> Reader:
    """A reader of shards for tars, URLs and folders of tars, else one of a folder of pictures; opened."""
    path = Path(source).expanduser()
    is_folder = path.is_dir() and not any(path.glob("*.tar"))
    reader = FolderReader(source, caption_key) if is_folder else ShardReader(source, caption_key)
    reader.open()
    return reader


def encode_all(records: Iterable[Record], encoding: Encoding, threads: int) -> Iterator[tuple[Record, str]]:
    """Apply an encoding in several threads (Pillow lets them run side by side), in order, a few records ahead."""
    with ThreadPoolExecutor(threads) as pool:
        pending: deque[Future[tuple[Record, str]]] = deque()
        for record in records:
            pending.append(pool.submit(encoding.apply, record))
            if len(pending) > 4 * threads:
                yield pending.popleft().result()
        while pending:
            yield pending.popleft().result()


def prepare(
    reader: Reader,
    out: Path,
    encoding: Encoding,
    shard_samples: int = 1000,
    val_fraction: float = 0.0,
    threads: int = 1,
) -> Tally:
    """Write a reader's records as shards into out/train and, for a val_fraction above 0, out/val.

    Args:
        reader: Opened source. Its records are shuffled, always in the same way, so that shards are alike.
        out: Folder that is empty or does not exist.
        encoding: How pictures are rewritten.
        shard_samples: Samples a shard.
        val_fraction: Share held out by a hash of the key, in [0, 1).
        threads: Pictures that are encoded at a time.

    Returns:
        What was written and what was skipped.

    Raises:
        DataError: If `out` is not empty or no record is usable.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise DataError(f"{out} is not empty: name a new folder, or remove it first.")
    tally, taken, held_out = Tally(limit=1.0), set(), Part(val_fraction, held_out=True)
    records = encode_all(_shuffled(reader), encoding, threads)
    with ShardWriter(out / "train", shard_samples) as train, ShardWriter(out / "val", shard_samples) as val:
        for record, suffix in with_progress(records, None):
            if record.problem:
                tally.add(1, [Rejected(str(reader), record.key, record.problem)])
                continue
            key = unique(record.key, taken)  # two shards may use the same one
            writer = val if key in held_out else train
            writer.write(key, {suffix: record.image, "txt": record.captions[0].encode()})
            tally.add(1, [])
    if tally.seen == tally.bad:
        raise DataError(f"{reader}: {tally.report()}. None is left to train on.")
    return tally


def _shuffled(reader: Reader) -> Iterator[Record]:
    walk = Walk(Order(reader, Part(), 0, ALONE, reader.pieces()))
    number, piece, index = walk.draw()
    while number == 0:
        yield walk.opened[piece].load(index)
        number, piece, index = walk.draw()


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fluxflow.data.prepare", description=(__doc__ or "").split("\n")[0])
    parser.add_argument("source", metavar="IN", help="a folder of pictures with captions, a folder of tars, or tars")
    parser.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    parser.add_argument("--size", type=int, help="resize the shorter side to this many pixels")
    parser.add_argument("--crop", action="store_true", help="crop the centre to a square")
    parser.add_argument("--format", choices=sorted(SUFFIXES.values()), help="rewrite pictures (webp, when they change)")
    parser.add_argument("--quality", type=int, default=90, help="of jpg and webp (%(default)s)")
    parser.add_argument("--shard-samples", type=int, default=1000, help="samples a shard (%(default)s)")
    parser.add_argument("--val-fraction", type=float, default=0.0, help="share held out in OUT/val (%(default)s)")
    parser.add_argument("--caption-key", help="column or JSON key of the caption (text or caption)")
    parser.add_argument("--threads", type=int, default=min(8, os.cpu_count() or 1), help="(%(default)s)")
    options = parser.parse_args(arguments)
    if not 0 <= options.val_fraction < 1:
        parser.error("--val-fraction is a share, from 0 to below 1")
    if min(options.shard_samples, options.threads, 1 if options.size is None else options.size) < 1:
        parser.error("--size, --shard-samples and --threads are at least 1")
    return options


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse_arguments(arguments)
    encoding = Encoding(options.size, options.crop, options.format, options.quality)
    try:
        reader = find_reader(options.source, options.caption_key)
        tally = prepare(reader, options.out, encoding, options.shard_samples, options.val_fraction, options.threads)
    except FluxFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    if tally.bad:
        print(tally.report(), file=sys.stderr)
    val = f" data.val={options.out / 'val'}" if (options.out / "val").exists() else ""
    print(f"{tally.seen - tally.bad} samples. To train on them: data=shards data.train={options.out / 'train'}{val}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
