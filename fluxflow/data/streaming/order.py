"""In which order the records of a source come, as a pure function of integers.

A pass permutes the pieces of the source, and goes through them in *blocks* of a few pieces whose samples are permuted
together. Each of n places (workers of all ranks) takes every n-th piece as long as there is one for all; of the pieces
that are left over, of which there are n − 1 at most, it takes every n-th sample. So seed, pass, block and offset say
what comes next, and resuming is jumping there. The permutation of the pieces does not depend on the places: at the same
fraction of a pass, any number of them has shown the same pieces, apart from the blocks that are in work.
"""

from __future__ import annotations

import math
import random
from collections import OrderedDict
from dataclasses import dataclass
from typing import Any

from fluxflow.data.sources.records import Part, Piece, Place, Reader
from fluxflow.errors import DataError

EMPTY_PASSES = 20  # a place may by chance get the pieces that hold nothing of its part, but not this often in a row


@dataclass(frozen=True)
class Block:
    """Pieces whose samples are permuted together.

    Args:
        pieces: Their numbers.
        shared: Whether all places share their samples, or this place has them all.
        start, end: What of the pass lies before it and up to its end, for all places together, in [0, 1].
    """

    pieces: list[int]
    shared: bool
    start: float
    end: float


@dataclass(frozen=True)
class Order:
    """The order of one place in one source.

    Args:
        reader: The source, opened.
        part: The part of it that is shown.
        seed: Seed of all permutations.
        place: Whose share it is.
        block_pieces: Pieces whose samples are permuted together.
    """

    reader: Reader
    part: Part
    seed: int
    place: Place
    block_pieces: int

    def blocks(self, number: int) -> list[Block]:
        """The blocks of this place in pass `number`."""
        pieces = list(range(self.reader.pieces()))
        random.Random(f"{self.seed}/{number}").shuffle(pieces)
        dealt = len(pieces) - len(pieces) % self.place.count
        fraction = dealt / len(pieces)
        return [
            *self._cut(pieces[:dealt][self.place.index :: self.place.count], False, 0.0, fraction),
            *self._cut(pieces[dealt:], True, fraction, 1.0),
        ]

    def samples(self, number: int, block: Block, opened: OpenPieces) -> list[tuple[int, int]]:
        """(piece, index) of this place's samples of a block, in the order in which they come."""
        found = [(p, index) for p in block.pieces for index, key in enumerate(opened[p].keys) if key in self.part]
        random.Random(f"{self.seed}/{number}/{block.pieces[0]}").shuffle(found)
        return found[self.place.index :: self.place.count] if block.shared else found

    def _cut(self, pieces: list[int], shared: bool, start: float, end: float) -> list[Block]:
        """Blocks of nearly equal size."""
        count = math.ceil(len(pieces) / self.block_pieces)
        bounds = [block * len(pieces) // count for block in range(count + 1)] if count else []
        at = [start + (end - start) * bound / len(pieces) for bound in bounds]
        return [Block(pieces[bounds[i] : bounds[i + 1]], shared, at[i], at[i + 1]) for i in range(count)]


class OpenPieces:
    """The pieces of a source that are open, the least recently used of which makes room.

    Args:
        reader: The source.
        limit: Pieces that are open at a time: what bounds memory, file descriptors and copies of remote shards.
    """

    def __init__(self, reader: Reader, limit: int) -> None:
        self.reader = reader
        self.limit = limit
        self._open: OrderedDict[int, Piece] = OrderedDict()

    def __getitem__(self, number: int) -> Piece:
        if number not in self._open:
            while len(self._open) >= self.limit:
                self._open.popitem(last=False)[1].close()
            self._open[number] = self.reader.piece(number)
        self._open.move_to_end(number)
        return self._open[number]


class Walk:
    """Goes through a source in its order, pass after pass, from where a cursor says.

    A cursor is {"pass", "block", "offset", "progress"}: integers, and passes done as a real number. {"progress": x}
    alone stands for the nearest sample of a walk of any place. None: the beginning.

    Args:
        order: The order.
        cursor: Where to start.
    """

    def __init__(self, order: Order, cursor: dict[str, Any] | None = None) -> None:
        self.order = order
        self.opened = OpenPieces(order.reader, limit=order.block_pieces + 1)
        cursor = cursor or {"pass": 0, "block": 0, "offset": 0}
        if "pass" in cursor:
            self._enter(cursor["pass"], cursor["block"])
            self.offset = cursor["offset"]
        else:
            self._jump(cursor["progress"])

    def draw(self) -> tuple[int, int, int]:
        """Take the next sample: (pass, piece, index). Raises DataError if there is none for this place."""
        empty = 0
        while self.offset >= len(self._samples):
            if self.block + 1 < len(self._blocks):
                self._enter(self.number, self.block + 1)
                continue
            empty += 1
            if empty > EMPTY_PASSES:
                raise DataError(f"{self.order.reader} has no training sample for one of {self.order.place.count} ranks "
                                "× workers: lower data.num_workers or data.val_fraction, or add pictures.")  # fmt: skip
            self._enter(self.number + 1, 0)
        self.offset += 1
        return (self.number, *self._samples[self.offset - 1])

    def cursor(self) -> dict[str, Any]:
        """Where the next draw is."""
        block = self._blocks[self.block]
        of_block = self.offset / len(self._samples) if self._samples else 0.0
        progress = self.number + block.start + (block.end - block.start) * of_block
        return {"pass": self.number, "block": self.block, "offset": self.offset, "progress": progress}

    def _enter(self, number: int, block: int) -> None:
        self.number, self.block, self.offset = number, block, 0
        self._blocks = self.order.blocks(number)
        self._samples = self.order.samples(number, self._blocks[block], self.opened)

    def _jump(self, progress: float) -> None:
        number, of_pass = int(progress), progress % 1
        blocks = self.order.blocks(number)
        self._enter(number, next((i for i, block in enumerate(blocks) if of_pass < block.end), len(blocks) - 1))
        block = blocks[self.block]
        self.offset = round((of_pass - block.start) / (block.end - block.start) * len(self._samples))
