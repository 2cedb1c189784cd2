"""The DataModule of a cache of latents: the streams of pictures over other records, and refusals of stale caches."""

import inspect
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from fluxflow.data.datamodule import DataModule
from fluxflow.data.latents.cache import KEY, LatentReader, LatentTransform, changed
from fluxflow.data.shapes.reader import ShapesReader
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.locations import is_remote
from fluxflow.data.sources.records import Reader
from fluxflow.data.sources.shards import ShardReader
from fluxflow.errors import ConfigError, DataError

log = logging.getLogger(__name__)

PICTURES = {reader.__name__: reader for reader in (FolderReader, ShapesReader, ShardReader)}


class LatentDataModule(DataModule):
    """Batches of latents of one size and of text features, in the order and with the draws that pictures would have.

    A batch is {"mean", "logvar": [B, D, h, w], "text", "no_text": [B, hidden], "caption", "key": list[str]}, with
    "no_text" that of the empty caption.

    Args:
        train: the folder of a cache.
        val: another one's validation split, `<cache>/val`; None: that of `train`.
        transform: makes the training examples of cached records.
        sources, batch_size, val_batch_size, num_workers, seed, val_samples, shuffle_shards: as of DataModule.

    Raises:
        ConfigError: for a number that cannot work.
    """

    def __init__(
        self,
        train: str | None = None,
        val: str | None = None,
        *,
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        transform: LatentTransform,
        batch_size: int,
        val_batch_size: int | None = None,
        num_workers: int | None = 0,
        seed: int = 0,
        val_samples: int | None = None,
        shuffle_shards: int = 4,
    ) -> None:
        super().__init__(
            LatentReader,
            train,
            val or (None if train is None else str(Path(train) / "val")),
            sources=sources,
            image_size=1,  # until `setup` has read that of the cache
            transform=transform,
            batch_size=batch_size,
            val_batch_size=val_batch_size,
            num_workers=num_workers,
            seed=seed,
            val_samples=val_samples,
            shuffle_shards=shuffle_shards,
        )
        self.flip = transform.flip

    def setup(self, stage: str | None = None) -> None:
        """Open the caches. Raises DataError, also where the source of one has changed, and ConfigError for a flip."""
        super().setup(stage)
        for reader in {str(r.key): r for r in reversed(self.readers)}.values():  # two splits of a cache share a source
            _check_source(reader)
            if self.flip > 0 and not reader.key["transform"]["mirrored"]:
                raise ConfigError(f"data.transform.flip={self.flip:g}, but {reader.path} holds no mirror images: take "
                                  "data.transform.flip=0, or encode again with it above 0.")  # fmt: skip
        self.image_size = self.readers[0].key["transform"]["image_size"]

    @property
    def readers(self) -> list[LatentReader]:
        """Those of all caches, opened in `setup`."""
        readers: list[Reader] = [*(source.reader for source in self.sources.values()), self.val_reader]
        return [reader for reader in readers if isinstance(reader, LatentReader)]

    def check_networks(self, vae: str, text: str) -> None:
        """Refuse a cache that was encoded with others.

        Args:
            vae, text: hashes of VAE and text encoder, see fluxflow.checkpoint.

        Raises:
            DataError: the message says what differs.
        """
        for reader in self.readers:
            if differing := changed(reader.key, {"vae": vae, "text": text}):
                raise DataError(f"{reader.path} was encoded with something else: {' and '.join(differing)} differs. "
                                "Encode again, or train with what it was encoded with.")  # fmt: skip


def location(reader: Reader) -> dict[str, Any]:
    """How a cache writes down the reader of its source, wherever it is used from."""
    arguments = {name: getattr(reader, name) for name in inspect.signature(type(reader)).parameters}
    if not isinstance(reader, ShapesReader):  # which has no files
        where = next(iter(arguments))
        arguments[where] = _absolute(arguments[where])
    return {"reader": type(reader).__name__, "arguments": arguments}


def _absolute(where: Any) -> Any:
    if isinstance(where, list):
        return [_absolute(one) for one in where]
    return str(where) if is_remote(str(where)) else str(Path(where).expanduser().absolute())


def _source(location: Mapping[str, Any], reader: LatentReader) -> Reader:
    """The reader that a cache wrote down."""
    try:
        return PICTURES[location["reader"]](**location["arguments"])
    except (TypeError, ValueError, ConfigError) as error:
        raise DataError(f"{reader.path / KEY}: locations describe no source of pictures ({error}).") from error


def _check_source(reader: LatentReader) -> None:
    """Refuse a cache whose source has changed since; one that is gone or remote is taken at its word."""
    for split, there in reader.key["locations"].items():
        where = next(iter(there["arguments"].values()), "")
        if any(is_remote(str(one)) for one in (where if isinstance(where, list) else [where])):
            continue
        source = _source(there, reader)
        try:
            source.open()
        except DataError as error:
            log.info("The pictures of %s are out of reach: it is used as it is (%s)", reader.path, error)
            continue
        if source.fingerprint() != reader.key["source"].get(split):
            raise DataError(f"{source} has changed since {reader.path} was encoded from it: encode it again.")
