"""Records of shapes, made when they are asked for: a source without files."""

import difflib
import hashlib
import random
from collections.abc import Sequence

from fluxflow.data.shapes.captions import captions
from fluxflow.data.shapes.maker import make_scene
from fluxflow.data.shapes.render import encode, render
from fluxflow.data.shapes.scene import ATTRIBUTES, MOST_OBJECTS, Scene
from fluxflow.data.sources.records import Record
from fluxflow.errors import ConfigError

SPLITS = ("train", "val")
SHARD = 1000  # records a shard
LOOK = 16  # records whose pixels and captions tell one set from another


class ShapesReader:
    """Makes records of scenes, each from its seed, split and index alone.

    Args:
        split: "train" or "val": no scene is in both.
        image_size: side of the pictures in pixels.
        objects: the most objects in a picture, 1 to 4.
        attributes: what varies and is named, of color, size, place, count and relation; see `make_scene`.
        samples: pictures an epoch of "train".
        val_samples: pictures in "val".
        seed: of the set.

    Raises:
        ConfigError: a value that cannot work.
    """

    def __init__(
        self,
        split: str,
        image_size: int,
        objects: int = MOST_OBJECTS,
        attributes: Sequence[str] = ATTRIBUTES,
        samples: int = 20000,
        val_samples: int = 1000,
        seed: int = 0,
    ) -> None:
        if split not in SPLITS:
            raise ConfigError(f"data.train or data.val is {split!r}: with data=shapes it can be {' or '.join(SPLITS)}.")
        if not 1 <= objects <= MOST_OBJECTS:
            raise ConfigError(f"data.reader.objects is {objects}: it can be 1 to {MOST_OBJECTS}.")
        for name, value in {"image_size": image_size, "samples": samples, "val_samples": val_samples}.items():
            if value < 1:
                raise ConfigError(f"data.reader.{name} is {value}: it must be at least 1.")
        named = [attributes] if isinstance(attributes, str) else attributes
        for name in named:
            if name not in ATTRIBUTES:
                near = difflib.get_close_matches(name, ATTRIBUTES, n=1)
                hint = f"did you mean '{near[0]}'?" if near else f"it can name {', '.join(ATTRIBUTES)}."
                raise ConfigError(f"data.reader.attributes names '{name}': {hint}")
        self.split, self.image_size, self.objects, self.seed = split, image_size, objects, seed
        self.attributes = [name for name in ATTRIBUTES if name in named]
        self.samples, self.val_samples = samples, val_samples

    def __str__(self) -> str:
        return f"shapes {self.split}"

    def __len__(self) -> int:
        return self.samples if self.split == "train" else self.val_samples

    def open(self) -> None:
        """There is nothing to find."""

    def shard_count(self) -> int:
        return -(-len(self) // SHARD)

    def open_shard(self, number: int) -> "ShapesShard":
        if not 0 <= number < self.shard_count():
            raise IndexError(number)
        return ShapesShard(self, range(number * SHARD, min((number + 1) * SHARD, len(self))))

    def fingerprint(self) -> str:
        """Of all that records depend on, and of the first ones, which tell how they are drawn and named."""
        options = [self.split, self.image_size, self.objects, self.attributes, len(self), self.seed]
        digest = hashlib.sha256(f"{options}\n".encode())
        for index in range(min(LOOK, len(self))):
            scene, texts = self.sample(index)
            digest.update(render(scene, self.image_size).tobytes())
            digest.update(f"{texts}\n".encode())
        return digest.hexdigest()

    def sample(self, index: int) -> tuple[Scene, tuple[str, ...]]:
        """The truth of a record, and its captions."""
        rng = random.Random(f"shapes/{self.seed}/{self.split}/{index}")
        scene = make_scene(rng, self.objects, self.attributes)
        return scene, captions(scene, self.attributes, rng)


class ShapesShard:
    """Neighbouring records.

    Args:
        reader: makes them.
        indices: which ones.
    """

    def __init__(self, reader: ShapesReader, indices: range) -> None:
        self.reader = reader
        self.indices = indices
        self.name = f"{reader}/{indices.start // SHARD:05d}"
        self.keys = [f"{reader.split}-{index:07d}" for index in indices]

    def load(self, index: int) -> Record:
        scene, texts = self.reader.sample(self.indices[index])
        return Record(self.keys[index], encode(render(scene, self.reader.image_size)), texts)

    def close(self) -> None:
        """Nothing is open."""
