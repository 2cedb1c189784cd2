"""The Lightning DataModule: sources and a transform in, batches out, and where they stand in every checkpoint."""

import difflib
import logging
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import torch.distributed as dist
from lightning import LightningDataModule

from fluxflow.data.sources.records import Reader, Split, WorkerShard
from fluxflow.data.streaming.loader import Loader, changed_sources, differing, loader_state, loader_states, workers_for
from fluxflow.data.streaming.rejections import RejectedFile, SampleCounts
from fluxflow.data.streaming.streams import Source, TrainStream, Transform, ValidationStream
from fluxflow.errors import ConfigError

log = logging.getLogger(__name__)

SINGLE = "train"  # the name of the source where there is one


class DataModule(LightningDataModule):
    """Batches of captioned pictures, each of one size: an endless training stream and a finite validation split.

    A batch is {"image": uint8 [B, 3, H, W], "caption": list[str], "key": list[str]}. The training loader has no length.
    Validation crops the centre and never flips: `transform.for_validation()`.

    A checkpoint holds the state of the training stream after the last optimizer step, of all ranks, and a run that is
    resumed from it sees exactly the batches that it would have seen.

    Args:
        reader: makes a reader of a path, e.g. `ShardReader` or `FolderReader`.
        train: source of the training pictures, in the reader's terms.
        sources: instead of `train`, several that are mixed: name → {"path": as `train`, "weight": 1.0}.
        val: source of the validation pictures; None holds out `val_fraction` of `train`, by a hash of the key.
        image_size: side of the square pictures that `transform` makes, in pixels.
        transform: makes the training examples of records.
        batch_size: pictures a batch and rank in training.
        val_batch_size: the same in validation; None: as in training.
        num_workers: loader processes a rank, 0 to load in the main process; None: as many as a resumed run had, or
            else what the cores allow.
        seed: seed of order, crops and flips.
        val_fraction: share of `train` that is held out when `val` is None, in (0, 1).
        val_samples: validation pictures over all ranks; None: all there are.
        shuffle_shards: shards whose samples are shuffled together.
        max_bad_fraction: highest share of samples that cannot be used, in [0, 1]; above it the run stops.
        rejected: file to which each rejected sample is written once; None: nowhere.

    Raises:
        ConfigError: for a number that cannot work.
    """

    def __init__(
        self,
        reader: Callable[..., Reader],
        train: str | list[str] | None = None,
        val: str | list[str] | None = None,
        *,
        sources: Mapping[str, Mapping[str, Any]] | None = None,
        image_size: int,
        transform: Transform,
        batch_size: int,
        val_batch_size: int | None = None,
        num_workers: int | None = 0,
        seed: int = 0,
        val_fraction: float = 0.02,
        val_samples: int | None = None,
        shuffle_shards: int = 4,
        max_bad_fraction: float = 0.01,
        rejected: str | None = None,
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ConfigError(f"data.val_fraction is {val_fraction}: it is a share of the pictures, between 0 and 1")
        if not 0 <= max_bad_fraction <= 1:
            raise ConfigError(f"data.max_bad_fraction is {max_bad_fraction}: it is a share, from 0 to 1")
        for name, value in {"batch_size": batch_size, "val_batch_size": val_batch_size,
                            "val_samples": val_samples, "shuffle_shards": shuffle_shards}.items():  # fmt: skip
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} is {value}: it must be at least 1")
        self.sources = _sources(reader, train, sources)
        if val is None and len(self.sources) > 1:
            raise ConfigError("data.sources mixes several sets: name the one to validate on, data.val=.")
        self.val_reader = next(iter(self.sources.values())).reader if val is None else reader(val)
        self.train_split = Split(val_fraction if val is None else 0.0, held_out=False)
        self.val_split = Split(val_fraction, held_out=True) if val is None else Split()
        self.image_size = image_size
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_samples = val_samples
        self.train_transform = transform
        self.val_transform = transform.for_validation()
        self.shuffle_shards = shuffle_shards
        self.max_bad_fraction = max_bad_fraction
        self.rejected = None if rejected is None else RejectedFile(rejected)
        self._fingerprints: dict[str, str] = {}
        self._loaders: list[Loader] = []
        self._saved: dict[str, Any] = {}  # what a checkpoint held
        self._done: dict[str, Any] | None = None  # the loader's state after the last optimizer step
        self._ahead: tuple[int, dict[str, Any]] | None = None  # the step at which a batch began, the state after it

    def setup(self, stage: str | None = None) -> None:
        """Open the sources, so that missing data is named before any work starts. Raises DataError."""
        for reader in dict.fromkeys([*(source.reader for source in self.sources.values()), self.val_reader]):
            reader.open()
        self._fingerprints = {name: source.reader.fingerprint() for name, source in self.sources.items()}
        self._saved, self._done, self._ahead = {}, None, None

    def train_dataloader(self) -> Loader:
        """Endless batches for this rank, from where the checkpoint of a resumed run stands."""
        stream, counts = self._train_stream(), self._sample_counts()
        if self._saved:
            self._tell_changes()
            state = loader_states(self._saved, self._identity())[stream.worker_shard.rank]
            stream.states, stream.turn = state["workers"], state["turn"]
            counts.restore(state["tally"])
        self._done, self._ahead = loader_state(stream, counts), None
        return self._open(Loader(stream, self._workers(), counts))

    def first_batches(self) -> Iterator[dict[str, Any]]:
        """The batches with which a run begins, whatever training has seen by now; leaves its state alone."""
        return iter(Loader(self._train_stream(), self._workers(), SampleCounts(self.max_bad_fraction)))

    def val_dataloader(self) -> Loader:
        """The validation batches of this rank, always the same and in the same order."""
        stream = ValidationStream(
            self.val_reader, self.val_split, self.val_transform, self.val_batch_size, self.val_samples,
            self._worker_shard(),
        )  # fmt: skip
        return self._open(Loader(stream, self._workers(), self._sample_counts(), persistent=True))

    def teardown(self, stage: str | None = None) -> None:
        """End the workers, and report the samples that could not be used."""
        for loader in self._loaders:
            loader.close()
            if loader.counts.bad:
                log.info(loader.counts.report())
        self._loaders = []

    def on_before_batch_transfer(self, batch: dict[str, Any], dataloader_idx: int) -> dict[str, Any]:
        """Note the state of the batch that is trained on next: Lightning has fetched further ones already."""
        state = batch.pop("state", None)
        if state is not None and self.trainer is not None:
            self._note_step()
            self._ahead = (self.trainer.global_step, state)
        return batch

    def state_dict(self) -> dict[str, Any]:
        """The state of the training stream after the last optimizer step, gathered from all ranks."""
        self._note_step()
        if self._done is None:
            return {}
        count, ranks = self._worker_shard().ranks, [self._done]
        if count > 1:
            ranks = [{}] * count
            dist.all_gather_object(ranks, self._done)
        return self._identity() | {"ranks": ranks}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Let the next training loader start from the state of a checkpoint."""
        self._saved = state_dict

    def _open(self, loader: Loader) -> Loader:
        self._loaders.append(loader)
        return loader

    def _note_step(self) -> None:
        """Of the batches of accumulated gradients, only the last one's state is of use: a resumed run repeats them."""
        if self._ahead is not None and self.trainer is not None and self.trainer.global_step > self._ahead[0]:
            self._done, self._ahead = self._ahead[1], None

    def _train_stream(self) -> TrainStream:
        return TrainStream(
            self.sources, self.train_split, self.train_transform, self.batch_size, self.seed, self.shuffle_shards,
            self._worker_shard(),
        )  # fmt: skip

    def _sample_counts(self) -> SampleCounts:
        return SampleCounts(self.max_bad_fraction, self.rejected)

    def _worker_shard(self) -> WorkerShard:
        rank, ranks = 0, 1
        if dist.is_available() and dist.is_initialized():
            rank, ranks = dist.get_rank(), dist.get_world_size()
        return WorkerShard(rank, ranks, workers=max(1, self._workers()))

    def _workers(self) -> int:
        if self.num_workers is None:
            resumed = self._saved.get("settings", {}).get("workers")
            return resumed or workers_for(self.trainer.num_devices if self.trainer else 1)
        return self.num_workers

    def _identity(self) -> dict[str, Any]:
        """What the stream depends on besides its state."""
        worker_shard = self._worker_shard()
        settings = {  # these names are in checkpoints: "block_pieces" is shuffle_shards
            "seed": self.seed, "batch_size": self.batch_size, "transform": str(self.train_transform),
            "val_fraction": self.train_split.fraction, "block_pieces": self.shuffle_shards, "ranks": worker_shard.ranks,
            "workers": worker_shard.workers, "weights": {name: source.weight for name, source in self.sources.items()},
        }  # fmt: skip
        return {"settings": settings, "sources": self._fingerprints}

    def _tell_changes(self) -> None:
        here = self._identity()
        settings = differing(self._saved["settings"], here["settings"])
        sources = changed_sources(self._saved["sources"], here["sources"])
        if self._worker_shard().rank == 0 and settings + sources:
            what = [*settings, *(f"source {name} is not the same" for name in sources)]
            log.warning("The data of this run differs from that of its checkpoint (%s): it goes on at the same "
                        "fraction of its epoch%s.", "; ".join(what),
                        f", and {', '.join(sources)} begins a new one" if sources else "")  # fmt: skip


def _sources(
    reader: Callable[..., Reader], train: str | list[str] | None, sources: Mapping[str, Mapping[str, Any]] | None
) -> dict[str, Source]:
    if (train is None) == (not sources):
        raise ConfigError("data.train= names the training pictures, data.sources= several sets of them: give one.")
    if not sources:
        return {SINGLE: Source(reader(train))}
    made = {}
    for name, options in sources.items():
        for key in set(options) - {"path", "weight"}:
            near = difflib.get_close_matches(key, ["path", "weight"], n=1)
            hint = f": did you mean '{near[0]}'?" if near else " (path, weight)"
            raise ConfigError(f"unknown key 'data.sources.{name}.{key}'{hint}")
        weight = options.get("weight", 1.0)
        if "path" not in options or not isinstance(weight, (int, float)) or not weight > 0:
            raise ConfigError(f"data.sources.{name} needs a path, and a weight above 0 where it is not 1.")
        made[name] = Source(reader(options["path"]), float(weight))
    return made
