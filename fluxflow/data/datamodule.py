"""The Lightning DataModule: sources and numbers in, batches out."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
import torch.distributed as dist
from lightning import LightningDataModule

from ..errors import ConfigError
from .buckets import Buckets
from .records import ALONE, Part, Place, Reader
from .stream import StreamLoader, TrainStream, ValidationStream, collate, outlive_signals
from .transforms import Transform


class DataModule(LightningDataModule):
    """Batches of captioned pictures, each batch of one size: an endless training stream and a finite validation part.

    A batch is {"image": uint8 [B, 3, H, W], "caption": list[str], "key": list[str]}. The training
    loader has no length. Validation crops the centre and never flips.

    Args:
        reader: Makes a reader of a source, e.g. `ShardReader` or `FolderReader`.
        train: Source of the training pictures, in the reader's terms.
        val: Source of the validation pictures; None holds out `val_fraction` of `train`, by a hash of the key.
        image_size: Side of the square pictures, in pixels; those of another shape have about its area.
        multiple: What every side is a multiple of: 2^downscales of the model.
        max_aspect: Highest ratio of the longer to the shorter side; None: all pictures are square.
        batch_size: Pictures a batch and rank in training.
        val_batch_size: The same in validation; None: as in training.
        num_workers: Loader processes a rank; 0 loads in the main process.
        seed: Seed of order, crops and flips.
        val_fraction: Share of `train` that is held out when `val` is None, in (0, 1).
        val_samples: Validation pictures over all ranks; None: all there are.
        crop: "random" or "center", in training.
        flip: Probability of a horizontal flip in training, in [0, 1].
        flip_guard: Words of a caption that forbid to flip its picture; "default": those of captions.py; None: none do.
        caption_rule: "random", "first" or "longest", in training, for pictures with several captions.
        caption_prefix: Put before every caption.

    Raises:
        ConfigError: For a number that cannot work.
    """

    def __init__(
        self,
        reader: Callable[..., Reader],
        train: str | list[str],
        val: str | list[str] | None = None,
        *,
        image_size: int,
        multiple: int = 1,
        max_aspect: float | None = None,
        batch_size: int,
        val_batch_size: int | None = None,
        num_workers: int = 0,
        seed: int = 0,
        val_fraction: float = 0.02,
        val_samples: int | None = None,
        crop: str = "random",
        flip: float = 0.5,
        flip_guard: Sequence[str] | None = "default",
        caption_rule: str = "random",
        caption_prefix: str = "",
    ) -> None:
        super().__init__()
        if not 0 < val_fraction < 1:
            raise ConfigError(f"data.val_fraction is {val_fraction}: it is a share of the pictures, between 0 and 1")
        for name, value in {
            "batch_size": batch_size,
            "val_batch_size": val_batch_size,
            "val_samples": val_samples,
        }.items():
            if value is not None and value < 1:
                raise ConfigError(f"data.{name} is {value}: it must be at least 1")
        self.train_reader = reader(train)
        self.val_reader = self.train_reader if val is None else reader(val)
        self.train_part = Part(val_fraction if val is None else 0.0, held_out=False)
        self.val_part = Part(val_fraction, held_out=True) if val is None else Part()
        self.batch_size = batch_size
        self.val_batch_size = val_batch_size or batch_size
        self.num_workers = num_workers
        self.seed = seed
        self.val_samples = val_samples
        buckets = Buckets(image_size, multiple, max_aspect)
        self.train_transform = Transform(buckets, crop, flip, flip_guard, caption_rule, caption_prefix)
        self.val_transform = Transform(buckets, caption_prefix=caption_prefix)
        self.start_step = 0

    def setup(self, stage: str | None = None) -> None:
        """Open the sources, so that missing data is named before any work starts. Raises DataError."""
        self.train_reader.open()
        if self.val_reader is not self.train_reader:
            self.val_reader.open()

    def train_dataloader(self) -> StreamLoader:
        """Endless batches for this rank.

        The order depends on (seed, start_step), and start_step is the trainer's step at this moment: a run that goes
        on from a checkpoint sees another order, instead of the samples with which it began.
        """
        if self.trainer is not None:
            self.start_step = self.trainer.global_step
        stream = TrainStream(
            self.train_reader, self.train_part, self.train_transform, self.seed, self.start_step, _rank()
        )
        return self._loader(stream, self.batch_size, persistent=False)

    def val_dataloader(self) -> StreamLoader:
        """The validation batches of this rank, always the same and in the same order."""
        stream = ValidationStream(
            self.val_reader, self.val_part, self.val_transform, self.val_batch_size, self.val_samples, _rank()
        )
        return self._loader(stream, self.val_batch_size, persistent=True)

    def _loader(self, stream: TrainStream | ValidationStream, batch_size: int, persistent: bool) -> StreamLoader:
        return StreamLoader(
            stream,
            batch_size=batch_size,
            num_workers=self.num_workers,
            collate_fn=collate,
            worker_init_fn=outlive_signals,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=persistent and self.num_workers > 0,
        )


def _rank() -> Place:
    if dist.is_available() and dist.is_initialized():
        return Place(rank=dist.get_rank(), ranks=dist.get_world_size())
    return ALONE
