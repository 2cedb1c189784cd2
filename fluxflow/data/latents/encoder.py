"""The frozen networks of stage 2 over all pictures and captions once, into the cache of cache.py.

The work is cut into units, a chunk of a shard of the source each, which become one file each. What a file holds is a
function of its unit, so ranks and workers take every n-th unit, and a run that goes on leaves out what is there.
"""

import logging
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from lightning import Fabric
from torch import Tensor
from torch.utils.data import IterableDataset, get_worker_info

from fluxflow import signals
from fluxflow.data.datamodule import DataModule
from fluxflow.data.images.decode import UndecodableImage
from fluxflow.data.images.transforms import Transform
from fluxflow.data.latents.cache import (
    FORMAT,
    KEY,
    SUFFIX,
    LatentRecord,
    changed,
    read_key,
    write_index,
    write_key,
    write_shard,
)
from fluxflow.data.latents.latent_datamodule import location
from fluxflow.data.progress import Progress
from fluxflow.data.sources.records import Reader, Record, Split, WorkerShard
from fluxflow.data.streaming.loader import Loader, workers_for
from fluxflow.data.streaming.rejections import Rejected, SampleCounts
from fluxflow.data.streaming.streams import Item, collate, make_example
from fluxflow.errors import ConfigError, DataError
from fluxflow.kernels.conv import to_signed
from fluxflow.kernels.heap import keep_freed_memory

if TYPE_CHECKING:  # what it encodes with is handed over
    from fluxflow.models.latent_space import LatentSpace
    from fluxflow.models.text_encoder import TextEncoder

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Unit:
    """What becomes one file.

    Args:
        split: "train" or "val".
        shard: its number in the source.
        indices: those of its records.
        name: of the file, below the cache.
    """

    split: str
    shard: int
    indices: tuple[int, ...]
    name: str


@dataclass(eq=False)
class EncodeStream(IterableDataset):
    """The pictures of the units of one rank, in batches of one size: {"image", "key", "captions", "flips", "index",
    "source": of each, "unit": its number, "last": whether no other batch of the unit follows}.

    Args:
        units: what there is to do for all ranks.
        readers: the source of each split, opened.
        transform: from record to picture: never at random.
        mirrored: whether pictures that may be flipped are to have "flips" set.
        batch_size: pictures a batch.
        worker_shard: rank of this process, and the number of its workers.
    """

    units: list[Unit]
    readers: dict[str, Reader]
    transform: Transform
    mirrored: bool
    batch_size: int
    worker_shard: WorkerShard

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        worker_shard = self.worker_shard if info is None else replace(self.worker_shard, worker=info.id)
        for number in range(worker_shard.index, len(self.units), worker_shard.count):
            yield from self._unit(number)

    def _unit(self, number: int) -> Iterator[Item]:
        unit = self.units[number]
        shard = self.readers[unit.split].open_shard(unit.shard)
        waiting: dict[tuple[int, int], list[dict[str, Any]]] = {}
        full: list[dict[str, Any]] = []  # the last batch, held back until it is known whether another one follows
        seen, rejected = 0, []
        for index in unit.indices:
            record = shard.load(index)
            seen += 1
            try:
                size, example = make_example(record, self.transform, "encode")
            except UndecodableImage as error:
                rejected.append(Rejected(shard.name, record.key, str(error)))
                continue
            column = waiting.setdefault(size, [])
            column.append(dict(example) | self._beside(record, index, shard.name))
            if len(column) == self.batch_size:
                if full:
                    yield Item(_batch(full, number, last=False), {}, seen, rejected)
                    seen, rejected = 0, []
                full = waiting.pop(size)
        shard.close()
        batches = ([full] if full else []) + [waiting[size] for size in sorted(waiting)]
        for examples in batches:
            yield Item(_batch(examples, number, last=examples is batches[-1]), {}, seen, rejected)
            seen, rejected = 0, []
        if not batches:
            yield Item(None, {}, seen, rejected)

    def _beside(self, record: Record, index: int, source: str) -> dict[str, Any]:
        captions = [self.transform.caption_rule([caption], 0.0) for caption in record.captions]  # with their prefix
        flips = self.mirrored and self.transform.guard.allows(record.captions)
        return {"captions": captions, "flips": flips, "index": index, "source": source}


def _batch(examples: list[dict[str, Any]], unit: int, last: bool) -> dict[str, Any]:
    return collate(examples) | {"unit": unit, "last": last}


class LatentEncoder:
    """Writes a cache: posteriors and text features of every usable picture of both splits.

    Args:
        latent_space: the VAE.
        text_encoder: its frozen language model is used, its projection not.
        folder: where the cache goes, or goes on.
        shard_samples: samples a file.
    """

    def __init__(
        self, latent_space: "LatentSpace", text_encoder: "TextEncoder", folder: str, shard_samples: int = 1024
    ) -> None:
        if shard_samples < 1:
            raise ConfigError(f"encoder.shard_samples is {shard_samples}: it must be at least 1")
        self.latent_space, self.text_encoder = latent_space.eval().requires_grad_(False), text_encoder.eval()
        self.folder, self.shard_samples = Path(folder), shard_samples

    def run(self, data: DataModule, fabric: Fabric) -> None:
        """Encode what `data` shows.

        Args:
            data: one source of pictures; a random crop becomes the one in the centre.
            fabric: the hardware; it is launched here.

        Raises:
            DataError: too many samples cannot be used, a split is empty, or the folder holds a cache of something else.
        """
        data.setup()
        train = next(iter(data.sources.values())).reader
        readers: dict[str, Reader] = {"train": train, "val": data.val_reader}
        transform, centred = data.train_transform, data.val_transform
        assert isinstance(transform, Transform)
        assert isinstance(centred, Transform)
        if transform.crop == "random":
            log.info("data.transform.crop=random: a cache holds one crop of each picture, here the one in the centre")
        key = self._key(data, readers, transform)
        self._refuse_another(key)
        units = [unit for split, within in (("train", data.train_split), ("val", data.val_split))
                 for unit in self._units(split, readers[split], within)]  # fmt: skip
        fabric.launch()
        self.folder = Path(fabric.broadcast(str(self.folder)))  # that of a new run is a time, to the second
        todo = [unit for unit in units if not (self.folder / unit.name).is_file()]
        fabric.barrier()  # every rank has looked before any of them writes
        if fabric.is_global_zero:
            write_key(self.folder, key)
        workers = workers_for(fabric.world_size) if data.num_workers is None else data.num_workers
        worker_shard = WorkerShard(fabric.global_rank, fabric.world_size, workers=max(1, workers))
        stream = EncodeStream(todo, readers, centred, transform.flip > 0, data.val_batch_size, worker_shard)
        counts = SampleCounts(data.max_bad_fraction, data.rejected)
        self._encode(fabric, todo, Loader(stream, workers, counts))
        fabric.barrier()
        if fabric.is_global_zero:
            if sentence := self.text_encoder.cuts():
                log.warning(sentence)
            for split in readers:
                self._write_index(split, [unit for unit in units if unit.split == split])

    def _encode(self, fabric: Fabric, units: list[Unit], loader: Loader) -> None:
        keep_freed_memory(fabric.device)
        self.latent_space.to(fabric.device)
        self.text_encoder.to(fabric.device)
        mine = loader.stream.worker_shard  # pyright: ignore[reportAttributeAccessIssue] (an EncodeStream)
        own = [unit for number, unit in enumerate(units) if number // mine.workers % mine.ranks == mine.rank]
        progress = None
        if fabric.is_global_zero and units:
            log.info("Encoding %d samples into %s", sum(len(unit.indices) for unit in units), self.folder)
            progress = Progress("encoding", "samples", sum(len(unit.indices) for unit in own))
        advice = f"the same command goes on, with name={self.folder.name}"
        with signals.unwinding(advice), progress or nullcontext():
            for _ in self._samples(fabric, units, loader):
                if progress:
                    progress.advance(1)

    def _samples(self, fabric: Fabric, units: list[Unit], loader: Loader) -> Iterator[str]:
        """Encode and write; yields each key when it is done."""
        begun: dict[int, list[tuple[int, LatentRecord]]] = {}  # at most one unit a worker
        no_text = self.text_encoder.caption_features([""])[0].cpu()
        for batch in loader:
            records = begun.setdefault(batch["unit"], [])
            with torch.no_grad(), fabric.autocast():
                records += zip(batch["index"], self._records(batch, no_text, fabric.device), strict=True)
            if batch["last"]:
                ordered = sorted(begun.pop(batch["unit"]), key=lambda pair: pair[0])
                write_shard(self.folder / units[batch["unit"]].name, [record for _, record in ordered])
            yield from batch["key"]

    def _records(self, batch: dict[str, Any], no_text: Tensor, device: torch.device) -> list[LatentRecord]:
        image = to_signed(batch["image"].to(device))
        flips = torch.tensor(batch["flips"])
        posterior = self._posterior(image)
        mirrored = iter(self._posterior(image[flips.to(device)].flip(-1))) if flips.any() else iter(())
        texts = self.text_encoder.caption_features([caption for captions in batch["captions"] for caption in captions])
        parts = iter(texts.cpu().split([len(captions) for captions in batch["captions"]]))
        return [
            LatentRecord(
                key,
                captions=tuple(batch["captions"][i]),
                size=(image.shape[2], image.shape[3]),
                posterior=posterior[i],
                mirrored=next(mirrored) if batch["flips"][i] else None,
                text=next(parts),
                no_text=no_text,
                source=batch["source"][i],
            )
            for i, key in enumerate(batch["key"])
        ]

    def _posterior(self, image: Tensor) -> list[tuple[Tensor, Tensor]]:
        """Mean and log σ² of each image, on the CPU."""
        mean, logvar = (tensor.float().cpu() for tensor in self.latent_space.posterior(image))
        return list(zip(mean, logvar, strict=True))

    def _units(self, split: str, reader: Reader, within: Split) -> list[Unit]:
        units = []
        for number in range(reader.shard_count()):
            shard = reader.open_shard(number)
            indices = [index for index, key in enumerate(shard.keys) if key in within]
            shard.close()
            for chunk, start in enumerate(range(0, len(indices), self.shard_samples)):
                name = f"{split}/{number:05d}-{chunk:03d}{SUFFIX}"
                units.append(Unit(split, number, tuple(indices[start : start + self.shard_samples]), name))
        if not units:
            raise DataError(
                f"{reader} has no sample for the {split} split: change data.val_fraction, or name data.val."
            )
        return units

    def _key(self, data: DataModule, readers: dict[str, Reader], transform: Transform) -> dict[str, Any]:
        """What the cache depends on, see cache.py."""
        buckets = transform.buckets
        return {
            "format": FORMAT,
            "vae": self.latent_space.content_hash(),
            "text": self.text_encoder.content_hash(),
            "transform": {
                "image_size": data.image_size,
                "sizes": [f"{height}x{width}" for height, width in buckets.sizes],
                "mirrored": transform.flip > 0,
                "flip_guard": str(transform.guard),
                "caption_prefix": transform.caption_rule.prefix,
                "shard_samples": self.shard_samples,
            },
            "source": {split: reader.fingerprint() for split, reader in readers.items()}
            | {"val_fraction": data.val_split.fraction},
            "locations": {split: location(reader) for split, reader in readers.items()},
        }

    def _refuse_another(self, key: dict[str, Any]) -> None:
        if (self.folder / KEY).is_file() and (differing := changed(read_key(self.folder), key)):
            raise DataError(f"{self.folder} holds a cache of something else: {' and '.join(differing)} differs. "
                            "Give another name=, or remove the folder.")  # fmt: skip

    def _write_index(self, split: str, units: list[Unit]) -> None:
        """A unit of which no sample can be used has no file."""
        paths = [path for path in (self.folder / unit.name for unit in units) if path.is_file()]
        if not paths:
            raise DataError(f"No sample of the {split} split can be used: rejected.jsonl says why.")
        index = write_index(paths)
        log.info("%s: %d samples in %d files, %.1f MB", self.folder / split, index["samples"], len(paths),
                 index["bytes"] / 1e6)  # fmt: skip
