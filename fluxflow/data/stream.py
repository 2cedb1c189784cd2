"""The two streams of examples: endless and shuffled for training, finite and ordered for validation.

An example is {"image": uint8 [3, H, W], "caption": str, "key": str}; a batch holds
{"image": uint8 [B, 3, H, W], "caption": list[str], "key": list[str]}.
"""

from __future__ import annotations

import itertools
import random
import signal
from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset, get_worker_info

from ..errors import DataError
from .records import ALONE, Part, Place, Reader, Record
from .tally import Tally
from .transforms import SquareTransform, UndecodableImage

GRACE = 15  # seconds


def collate(examples: list[dict[str, Any]]) -> dict[str, Any]:
    """List of examples → batch."""
    return {
        "image": torch.stack([example["image"] for example in examples]),
        "caption": [example["caption"] for example in examples],
        "key": [example["key"] for example in examples],
    }


def make_example(record: Record, transform: SquareTransform, order: str, tally: Tally) -> dict[str, Any] | None:
    """One record → its example, or None (and counted) if it cannot be used.

    The draws of its crop and flip depend on the order string and on its key, not on who decodes it.
    """
    if record.problem:
        tally.skip(record.key, record.problem)
        return None
    try:
        image = transform(record.image, random.Random(f"{order}/{record.key}"))
    except UndecodableImage as error:
        tally.skip(record.key, str(error))
        return None
    tally.accept()
    return {"image": image, "caption": record.captions[0], "key": record.key}


def with_worker(place: Place) -> Place:
    """The place of this process: its rank's, and its own number where it is a worker of a loader."""
    worker = get_worker_info()
    return place if worker is None else replace(place, worker=worker.id, workers=worker.num_workers)


@dataclass(eq=False)
class TrainStream(IterableDataset):
    """Pass after pass over one part of a source, shuffled, without end.

    Each rank and worker shows its own share, and all shares together show every sample once a pass. The sequence is a
    pure function of (seed, start_step, rank, worker).

    Args:
        reader: Source of the records.
        part: Which part of them.
        transform: From bytes to tensor.
        seed: Seed of order, crops and flips.
        start_step: Step at which the run starts or goes on: another order for another start.
        place: Rank of this process; the worker is found out where the stream runs.
    """

    reader: Reader
    part: Part
    transform: SquareTransform
    seed: int
    start_step: int = 0
    place: Place = ALONE

    def __iter__(self) -> Iterator[dict[str, Any]]:
        place, tally = with_worker(self.place), Tally(str(self.reader))
        for number in itertools.count():
            order, empty = f"{self.seed}/{self.start_step}/{number}", True
            for record in self.reader.shuffled(order, place, self.part):
                empty = False
                example = make_example(record, self.transform, order, tally)
                if example is not None:
                    yield example
            if empty:
                raise DataError(f"{self.reader} has no training sample for one of {place.count} ranks × workers: "
                                "lower data.num_workers or data.val_fraction, or add pictures.")  # fmt: skip
            tally.end_pass()


@dataclass(eq=False)
class ValidationStream(IterableDataset):
    """One part of a source, once, in its own order, whatever the number of workers.

    Ranks take every n-th sample. Workers take whole batches in turn, which is how a loader collects them.

    Args:
        reader: Source of the records.
        part: Which part of them.
        transform: From bytes to tensor.
        batch_size: Samples a batch.
        limit: Samples over all ranks, None for all there are.
        place: Rank of this process.
    """

    reader: Reader
    part: Part
    transform: SquareTransform
    batch_size: int
    limit: int | None = None
    place: Place = ALONE

    def __iter__(self) -> Iterator[dict[str, Any]]:
        place, tally = with_worker(self.place), Tally(str(self.reader))
        records = itertools.islice(self.reader.ordered(self.part), self.limit)
        empty = True
        for number, record in enumerate(records):
            empty = False
            turn, rank = divmod(number, place.ranks)
            if rank != place.rank or turn // self.batch_size % place.workers != place.worker:
                continue
            example = make_example(record, self.transform, "validation", tally)
            if example is not None:
                yield example
        if empty:
            raise DataError(f"{self.reader} has no sample to validate on: raise data.val_fraction, or name data.val.")
        tally.end_pass()


def outlive_signals(worker: int) -> None:
    """What a worker does first: a signal to stop is the trainer's to answer.

    A terminal sends Ctrl-C and a scheduler SIGTERM to every process of a run. The trainer saves at the end of its step
    and needs batches until then, so its workers ignore the one and outlive the other by `GRACE` seconds.
    """
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))


class StreamLoader(DataLoader):
    """A DataLoader whose workers' DataErrors arrive as the one sentence they are, without a worker's traceback."""

    def __iter__(self) -> Iterator[dict[str, Any]]:  # type: ignore[override]
        try:
            yield from super().__iter__()
        except DataError as error:
            sentence = str(error).strip().rpartition(f"{DataError.__module__}.{DataError.__name__}: ")[2]
            raise DataError(sentence) from None
