"""In which order the records of a source come, as a pure function of integers.

An epoch permutes the shards of the source, and goes through them in *blocks* of a few shards whose samples are permuted
together. Each of n workers (over all ranks) takes every n-th shard as long as there is one for all. At most n − 1
shards are left over, and each worker takes every n-th sample of these. So seed, epoch, block and offset say what comes
next, and resuming is jumping there. The permutation of the shards does not depend on the workers: at the same fraction
of an epoch, any number of them has shown the same shards, apart from the blocks that are in work.
"""

import math
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fluxflow.data.sources.records import Reader, Shard, Split, WorkerShard
from fluxflow.errors import DataError

EMPTY_EPOCHS = 20  # a worker may by chance get the shards that hold nothing of its split, but not this often in a row


@dataclass(frozen=True)
class Block:
    """Shards whose samples are permuted together.

    Args:
        shards: their numbers.
        shared: whether all workers share their samples, or this worker has them all.
        start, end: what of the epoch lies before it and up to its end, for all workers together, in [0, 1].
    """

    shards: list[int]
    shared: bool
    start: float
    end: float


@dataclass(frozen=True)
class Order:
    """The order in which one worker takes the samples of one source.

    Args:
        reader: the source, opened.
        split: the split of it that is shown.
        seed: seed of all permutations.
        worker_shard: the share of the worker.
        shuffle_shards: shards whose samples are permuted together.
    """

    reader: Reader
    split: Split
    seed: int
    worker_shard: WorkerShard
    shuffle_shards: int

    def blocks(self, epoch: int) -> list[Block]:
        """The blocks of this worker in an epoch, counted from 0."""
        shards = list(range(self.reader.shard_count()))
        random.Random(f"{self.seed}/{epoch}").shuffle(shards)
        dealt = len(shards) - len(shards) % self.worker_shard.count
        fraction = dealt / len(shards)
        return [
            *self._cut(shards[:dealt][self.worker_shard.index :: self.worker_shard.count], False, 0.0, fraction),
            *self._cut(shards[dealt:], True, fraction, 1.0),
        ]

    def samples(self, epoch: int, block: Block, opened: "OpenShards") -> list[tuple[int, int]]:
        """(shard, index) of this worker's samples of a block, in the order in which they come."""
        found = [(s, index) for s in block.shards for index, key in enumerate(opened[s].keys) if key in self.split]
        random.Random(f"{self.seed}/{epoch}/{block.shards[0]}").shuffle(found)
        return found[self.worker_shard.index :: self.worker_shard.count] if block.shared else found

    def _cut(self, shards: list[int], shared: bool, start: float, end: float) -> list[Block]:
        """Blocks of nearly equal size."""
        count = math.ceil(len(shards) / self.shuffle_shards)
        bounds = [block * len(shards) // count for block in range(count + 1)] if count else []
        at = [start + (end - start) * bound / len(shards) for bound in bounds]
        return [Block(shards[bounds[i] : bounds[i + 1]], shared, at[i], at[i + 1]) for i in range(count)]


class OpenShards:
    """The shards of a source that are open, the least recently used of which makes room.

    Args:
        reader: the source.
        limit: shards that are open at a time: what bounds memory, file descriptors and copies of remote shards.
    """

    def __init__(self, reader: Reader, limit: int) -> None:
        self.reader = reader
        self.limit = limit
        self._open: OrderedDict[int, Shard] = OrderedDict()

    def __getitem__(self, number: int) -> Shard:
        if number not in self._open:
            while len(self._open) >= self.limit:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self.reader.open_shard(number)
        self._open.move_to_end(number)
        return self._open[number]


class Cursor:
    """Goes through a source in its order, epoch after epoch, from a state on.

    Its state is {"pass", "block", "offset", "progress"}: integers, and epochs done as a real number. {"progress": x}
    alone stands for the nearest sample, whatever the worker. None: the beginning. "pass" is the epoch, and keeps this
    name for the checkpoints that hold it.

    Args:
        order: the order.
        state: where to start.
    """

    def __init__(self, order: Order, state: dict[str, Any] | None = None) -> None:
        self.order = order
        self.opened = OpenShards(order.reader, limit=order.shuffle_shards + 1)
        state = state or {"pass": 0, "block": 0, "offset": 0}
        if "pass" in state:
            self._enter(state["pass"], state["block"])
            self.offset = state["offset"]
        else:
            self._jump(state["progress"])

    def draw(self) -> tuple[int, int, int]:
        """Take the next sample: (epoch, shard, index). Raises DataError if there is none for this worker."""
        empty = 0
        while self.offset >= len(self._samples):
            if self.block + 1 < len(self._blocks):
                self._enter(self.epoch, self.block + 1)
                continue
            empty += 1
            if empty > EMPTY_EPOCHS:
                count = self.order.worker_shard.count
                raise DataError(f"{self.order.reader} has no training sample for one of {count} ranks × workers: "
                                "lower data.num_workers or data.val_fraction, or add pictures.")  # fmt: skip
            self._enter(self.epoch + 1, 0)
        self.offset += 1
        return (self.epoch, *self._samples[self.offset - 1])

    def state(self) -> dict[str, Any]:
        """Where the next draw is."""
        block = self._blocks[self.block]
        of_block = self.offset / len(self._samples) if self._samples else 0.0
        progress = self.epoch + block.start + (block.end - block.start) * of_block
        return {"pass": self.epoch, "block": self.block, "offset": self.offset, "progress": progress}

    def _enter(self, epoch: int, block: int) -> None:
        self.epoch, self.block, self.offset = epoch, block, 0
        self._blocks = self.order.blocks(epoch)
        self._samples = self.order.samples(epoch, self._blocks[block], self.opened)

    def _jump(self, progress: float) -> None:
        epoch, of_epoch = int(progress), progress % 1
        blocks = self.order.blocks(epoch)
        self._enter(epoch, next((i for i, block in enumerate(blocks) if of_epoch < block.end), len(blocks) - 1))
        block = blocks[self.block]
        self.offset = round((of_epoch - block.start) / (block.end - block.start) * len(self._samples))
