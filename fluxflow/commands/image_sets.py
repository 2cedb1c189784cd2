"""The images that a user names for a trained model."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.transforms import Transform
from fluxflow.data.shapes.reader import ShapesReader
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import Reader, Split
from fluxflow.data.sources.shards import ShardReader, demo_shards
from fluxflow.data.streaming.rejections import SampleCounts
from fluxflow.data.streaming.streams import Transform as TransformProtocol
from fluxflow.data.streaming.streams import ValidationStream
from fluxflow.errors import DataError

DEMO, SHAPES = "demo", "shapes"


@dataclass(frozen=True)
class ImageSet:
    """Images of one source, cropped at the centre, in the order in which they are stored.

    Args:
        name: what messages call it.
        reader: the source, opened.
        split: the part of it that is shown.
        transform: makes the examples.
    """

    name: str
    reader: Reader
    split: Split
    transform: TransformProtocol

    def batches(self, size: int, limit: int | None = None) -> Iterator[dict[str, Any]]:
        """Batches of {"image": uint8 [B, 3, H, W], "caption": list[str], "key": list[str]}, of one size each.

        Raises:
            DataError: no image can be read.
        """
        counts, empty = SampleCounts(limit=1.0), True
        for item in ValidationStream(self.reader, self.split, self.transform, batch_size=size, limit=limit):
            counts.add(item.seen, item.rejected)
            if item.batch is not None:
                empty = False
                yield item.batch
        if empty:
            raise DataError(f"{self.reader}: no image can be used; {counts.report()}.")


def named_sets(name: str, size: tuple[int, int], needs_captions: bool) -> tuple[ImageSet, ImageSet | None]:
    """The images that a user names, and those that go with them as training images, where it is known.

    Args:
        name: "demo", "shapes", a folder of images, or shards.
        size: height and width in pixels.
        needs_captions: whether images without a caption are left out.

    Raises:
        DataError: there are none.
    """
    transform = Transform(Buckets.single(*size))
    if name == DEMO:
        sets = [ImageSet(f"demo {split}", demo_shards(split), Split(), transform) for split in ("val", "train")]
    elif name == SHAPES:
        readers = [ShapesReader(split, size[0]) for split in ("val", "train")]
        sets = [ImageSet(str(reader), reader, Split(), transform) for reader in readers]
    else:
        plain = Path(name).is_dir() and not any(Path(name).glob("*.tar"))
        reader = (FolderReader if plain else ShardReader)(name, needs_captions=needs_captions)
        sets = [ImageSet(name, reader, Split(), transform)]
    for one in sets:
        one.reader.open()
    return sets[0], sets[1] if len(sets) > 1 else None
