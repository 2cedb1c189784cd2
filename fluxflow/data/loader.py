"""The loader: workers that run a stream, and the state of all of them after each batch."""

from __future__ import annotations

import gc
import os
import signal
import sys
from collections.abc import Iterator
from typing import Any

import torch
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import DataError
from .stream import Item, TrainStream
from .tally import Tally

GRACE = 300  # seconds; a step of a large model and its checkpoint can take minutes
MOST_WORKERS = 8


class Loader:
    """The batches of a stream, in an order that depends on the stream and the number of workers alone.

    Each training batch holds, as "state", where the loader stands after it:
    {"turn": the worker that yields the next one, "workers": a state each, see TrainStream, "tally": counts}.

    Args:
        stream: What is loaded. A training stream starts from its own states.
        num_workers: Processes; 0 loads in this one.
        tally: Counts samples when their batch arrives here, and stops the run for too many bad ones.
        persistent: Whether the workers stay between two iterations.
    """

    def __init__(self, stream: IterableDataset[Item], num_workers: int, tally: Tally, persistent: bool = False) -> None:
        self.stream = stream
        self.tally = tally
        self._items = DataLoader(
            stream,
            batch_size=None,  # streams make their own batches
            num_workers=num_workers,
            collate_fn=as_it_is,
            worker_init_fn=begin_worker,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=persistent and num_workers > 0,
        )
        self._running: Any = None

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches()
        except DataError as error:
            self.close()  # else they would live as long as somebody keeps the error
            # one of a worker comes with its traceback: what counts is its one sentence
            sentence = str(error).strip().rpartition(f"{DataError.__module__}.{DataError.__name__}: ")[2]
            raise DataError(sentence) from None

    def _batches(self) -> Iterator[dict[str, Any]]:
        state = loader_state(self.stream, self.tally) if isinstance(self.stream, TrainStream) else None
        self._running, empty = iter(self._items), True
        for item in self._running:
            self.tally.add(item.seen, item.rejected)
            if state is not None:
                turn, workers = state["turn"], list(state["workers"])
                workers[turn] = item.state
                state = {"turn": (turn + 1) % len(workers), "workers": workers, "tally": self.tally.state()}
            if item.batch is not None:
                empty = False
                yield item.batch if state is None else item.batch | {"state": state}
        if empty and self.tally.bad:
            raise DataError(f"{self.tally.report()}; none is left to validate on.")

    def close(self) -> None:
        """End the workers. Left to the garbage collector, idle ones would not hear of it and have to be killed."""
        if isinstance(self._running, _MultiProcessingDataLoaderIter):
            self._running._shutdown_workers()


def loader_state(stream: TrainStream, tally: Tally) -> dict[str, Any]:
    """Where a loader of a stream stands before its first batch."""
    states = stream.states or [{} for _ in range(stream.place.workers)]
    return {"turn": stream.turn, "workers": states, "tally": tally.state()}


def as_it_is(item: Any) -> Any:
    """What a DataLoader is given to leave batches alone."""
    return item


def workers_for(devices: int) -> int:
    """Loader processes a rank where none are asked for: the cores of this machine, shared among its `devices` ranks."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return max(1, min(MOST_WORKERS, cores // devices))


def begin_worker(worker: int) -> None:
    """What a worker does first: take one core, and leave signals to the trainer.

    torch's loader keeps torch to one thread; OpenCV would start one for each core. A terminal sends Ctrl-C and a
    scheduler SIGTERM to every process of a run. The trainer saves at the end of its step and needs batches until then,
    so its workers ignore the one and outlive the other by `GRACE` seconds. What a worker inherits belongs to the
    trainer: to collect it here would copy its memory, and close loaders that are not this worker's.
    """
    gc.freeze()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, lambda number, frame: signal.alarm(GRACE))
