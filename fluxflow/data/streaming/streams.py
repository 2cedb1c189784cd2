"""The two streams of batches: endless and shuffled for training, finite and ordered for validation.

An example is what the transform makes of a record: {"image": uint8 [3, H, W], "caption": str, "key": str}, or other
tensors in the image's place; a batch holds examples of one size, stacked. A stream runs in the workers of a loader and
yields items: batches with what the main process must know about them.
"""

import itertools
import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import torch
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import IterableDataset, get_worker_info

from fluxflow.data.images.decode import UndecodableImage
from fluxflow.data.sources.records import ALONE, Reader, Record, Split, WorkerShard
from fluxflow.data.streaming.order import Cursor, Order
from fluxflow.data.streaming.rejections import PATIENCE, Rejected
from fluxflow.errors import DataError

Example = Mapping[str, Any]
Reference = tuple[str, int, int, int]  # source, epoch, shard, index
WEYL = 0x9E3779B97F4A7C15  # 2⁶⁴ divided by the golden ratio: its multiples cover a circle evenly


class Transform(Protocol):
    """From a record to an example."""

    def size(self, record: Record) -> tuple[int, int]:
        """(height, width) of the record's example, from the header of its picture. Raises UndecodableImage."""
        ...

    def __call__(self, record: Record, size: tuple[int, int], rng: random.Random) -> Example:
        """The example, all draws from `rng`. Raises UndecodableImage."""
        ...

    def for_validation(self) -> "Transform":
        """The transform of which the examples depend on no draw."""
        ...


@dataclass(frozen=True)
class Source:
    """One of the sets that a training stream mixes.

    Args:
        reader: the set.
        weight: its share of the samples, relative to the others'.
    """

    reader: Reader
    weight: float = 1.0


@dataclass
class Item:
    """What a stream yields.

    Args:
        batch: a batch, or None where there is only to be told of rejected samples.
        state: where the stream stands after it, in plain containers; see TrainStream.
        seen: samples read since the last item.
        rejected: those of them that cannot be used.
    """

    batch: dict[str, Any] | None
    state: dict[str, Any] = field(default_factory=dict)
    seen: int = 0
    rejected: list[Rejected] = field(default_factory=list)

    def pin_memory(self) -> "Item":
        """Called by a loader for a GPU."""
        if self.batch is not None:
            self.batch = {k: v.pin_memory() if isinstance(v, torch.Tensor) else v for k, v in self.batch.items()}
        return self


def alike(tensors: Sequence[torch.Tensor]) -> Sequence[torch.Tensor]:
    """Tensors of one length along their first dimension: what is shorter than the longest has zeros at its end."""
    if len({len(tensor) for tensor in tensors}) == 1:
        return tensors
    return pad_sequence(list(tensors), batch_first=True).unbind()


def collate(examples: Sequence[Example]) -> dict[str, Any]:
    """List of examples → batch: tensors stacked, all else as lists.

    Images stay channels last, since to copy them so is six times as fast.
    """
    batch: dict[str, Any] = {}
    for name in examples[0]:
        values = [example[name] for example in examples]
        if name == "image":
            batch[name] = torch.stack([image.permute(1, 2, 0) for image in values]).permute(0, 3, 1, 2)
        else:
            batch[name] = torch.stack([*alike(values)]) if isinstance(values[0], torch.Tensor) else values
    return batch


def make_example(record: Record, transform: Transform, identity: str) -> tuple[tuple[int, int], Example]:
    """A record → its size and its example.

    The draws of its crop and flip depend on `identity` and its key, not on who decodes it.

    Raises:
        UndecodableImage: if it cannot be used; the message is the reason.
    """
    if record.problem:
        raise UndecodableImage(record.problem)
    size = transform.size(record)
    return size, transform(record, size, random.Random(f"{identity}/{record.key}"))


@dataclass(eq=False)
class TrainStream(IterableDataset):
    """Batches of one size, epoch after epoch over one split of the sources, without end.

    Each worker of each rank shows its own share, and all together show every sample once an epoch. Samples whose size
    is rare wait, over epochs if need be, until they fill a batch. What a worker yields is a function of its share and
    of its state alone:

        {"draws": samples drawn, "cursors": {source: see order.Cursor}, "pending": references of the samples that wait}

    Args:
        sources: what is mixed, by name.
        split: which split of it.
        transform: from record to example.
        batch_size: samples a batch.
        seed: seed of order, mixture, crops and flips.
        shuffle_shards: shards whose samples are shuffled together.
        worker_shard: rank of this process, and the number of its workers.
        states: a state for each worker of this rank; None: the beginning.
        turn: the worker that yields the first batch.
    """

    sources: dict[str, Source]
    split: Split
    transform: Transform
    batch_size: int
    seed: int
    shuffle_shards: int = 4
    worker_shard: WorkerShard = ALONE
    states: list[dict[str, Any]] | None = None
    turn: int = 0

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()  # a loader asks its workers in turn, from its first on
        worker = 0 if info is None else (info.id + self.turn) % info.num_workers
        worker_shard = replace(self.worker_shard, worker=worker)
        return _TrainBatches(self, worker_shard, self.states[worker] if self.states else {}).items()


class _TrainBatches:
    """A TrainStream at work in one worker."""

    def __init__(self, stream: TrainStream, worker_shard: WorkerShard, state: dict[str, Any]) -> None:
        self.stream = stream
        self.draws: int = state.get("draws", 0)
        states = state.get("cursors", {})
        self.cursors: dict[str, Cursor] = {}
        for name, source in stream.sources.items():
            order = Order(source.reader, stream.split, stream.seed, worker_shard, stream.shuffle_shards)
            self.cursors[name] = Cursor(order, states.get(name))
        self.waiting: dict[tuple[int, int], list[tuple[Reference, Example]]] = {}
        self.returning: list[Reference] = [tuple(reference) for reference in state.get("pending", [])]
        self.seen, self.rejected = 0, []
        self.mixture = list(itertools.accumulate(source.weight for source in stream.sources.values()))
        self.start = random.Random(f"{stream.seed}/{worker_shard.index}").getrandbits(64)

    def items(self) -> Iterator[Item]:
        """Put back what was waiting, then draw, and yield a batch whenever one is full."""
        by_shard = sorted(set(self.returning), key=lambda reference: (reference[0], reference[2], reference[3]))
        examples = {reference: self._example(reference) for reference in by_shard}  # each shard is opened once
        while self.returning:
            reference = self.returning.pop(0)
            yield from self._add(reference, examples.pop(reference))
        while True:
            name = self._source()
            self.draws += 1
            reference = (name, *self.cursors[name].draw())
            self.seen += 1
            yield from self._add(reference, self._example(reference))

    def _source(self) -> str:
        """The source of the next draw: the multiples of an irrational step hit each as often as its weight says."""
        at = (self.start + self.draws * WEYL) % 2**64 / 2**64 * self.mixture[-1]
        return next(name for name, bound in zip(self.stream.sources, self.mixture) if at < bound)

    def _example(self, reference: Reference) -> tuple[tuple[int, int], Example] | None:
        """Load and transform a sample; None if it was rejected."""
        name, epoch, number, index = reference
        shard = self.cursors[name].opened[number]
        try:
            return make_example(shard.load(index), self.stream.transform, f"{self.stream.seed}/{epoch}")
        except UndecodableImage as error:
            self.rejected.append(Rejected(shard.name, shard.keys[index], str(error)))
            return None

    def _add(self, reference: Reference, made: tuple[tuple[int, int], Example] | None) -> Iterator[Item]:
        if made is None:
            if len(self.rejected) >= PATIENCE:
                yield self._item(None)
            return
        size, example = made
        waiting = self.waiting.setdefault(size, [])
        waiting.append((reference, example))
        if len(waiting) >= self.stream.batch_size:
            del self.waiting[size]
            yield self._item(collate([example for _, example in waiting]))

    def _item(self, batch: dict[str, Any] | None) -> Item:
        pending = [reference for size in sorted(self.waiting) for reference, _ in self.waiting[size]]
        state = {
            "draws": self.draws,
            "cursors": {name: cursor.state() for name, cursor in self.cursors.items()},
            "pending": [list(reference) for reference in pending + self.returning],
        }
        item = Item(batch, state, self.seen, self.rejected)
        self.seen, self.rejected = 0, []
        return item


@dataclass(eq=False)
class ValidationStream(IterableDataset):
    """Batches of one size over one split of a source, once, in its own order, whatever the number of workers.

    Ranks take every n-th sample. The workers of a rank all look at the sizes of its samples, and make its batches in
    turn, which is how a loader collects them. Those that no full batch came of are in smaller ones at the end.

    Args:
        reader: source of the records.
        split: which split of them.
        transform: from record to example.
        batch_size: samples a batch.
        limit: samples over all ranks, None for all there are.
        worker_shard: rank of this process.
    """

    reader: Reader
    split: Split
    transform: Transform
    batch_size: int
    limit: int | None = None
    worker_shard: WorkerShard = ALONE

    def __iter__(self) -> Iterator[Item]:
        info = get_worker_info()
        worker, workers = (0, 1) if info is None else (info.id, info.num_workers)
        number, rejected = 0, []  # of the next batch; since the last one
        for records in self._groups(rejected):
            if number % workers == worker:
                yield self._item(records, rejected)
            number += 1
            rejected.clear()
        if rejected and number % workers == worker:
            yield Item(None, seen=len(rejected), rejected=rejected)

    def _groups(self, rejected: list[Rejected]) -> Iterator[list[tuple[str, Record]]]:
        """The records of each batch, with the names of their shards; adds to `rejected` what is in none."""
        waiting: dict[tuple[int, int], list[tuple[str, Record]]] = {}
        for name, record in self._records():
            try:
                if record.problem:
                    raise UndecodableImage(record.problem)
                size = self.transform.size(record)
            except UndecodableImage as error:
                rejected.append(Rejected(name, record.key, str(error)))
                continue
            waiting.setdefault(size, []).append((name, record))
            if len(waiting[size]) == self.batch_size:
                yield waiting.pop(size)
        for size in sorted(waiting):
            yield waiting[size]

    def _records(self) -> Iterator[tuple[str, Record]]:
        """This rank's share of the split, each record with the name of its shard."""
        count = 0
        for number in range(self.reader.shard_count()):
            shard = self.reader.open_shard(number)
            for index in (index for index, key in enumerate(shard.keys) if key in self.split):
                if count % self.worker_shard.ranks == self.worker_shard.rank:
                    yield shard.name, shard.load(index)
                count += 1
                if count == self.limit:
                    return
            shard.close()
        if not count:
            raise DataError(f"{self.reader} has no sample to validate on: raise data.val_fraction, or name data.val.")

    def _item(self, records: list[tuple[str, Record]], rejected: list[Rejected]) -> Item:
        examples, bad = [], list(rejected)
        for name, record in records:
            try:
                examples.append(make_example(record, self.transform, "validation")[1])
            except UndecodableImage as error:
                bad.append(Rejected(name, record.key, str(error)))
        return Item(collate(examples) if examples else None, seen=len(records) + len(rejected), rejected=bad)
