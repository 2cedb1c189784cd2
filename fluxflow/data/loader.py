"""The loader: workers that run a stream, and the state of all of them after each batch.

A terminal sends Ctrl-C and a scheduler SIGTERM to every process of a run. The trainer saves at the end of its step and
needs batches until then, so signals never reach its workers. They end with the trainer, or when it closes the loader.
"""

from __future__ import annotations

import atexit
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator
from typing import Any

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from ..errors import DataError
from ..signals import end_with_parent, held
from .stream import Item, TrainStream
from .tally import Tally

GRACE = 1  # second for the batches that workers have begun, when they are no longer wanted
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
        _loaders.add(self)

    def __iter__(self) -> Iterator[dict[str, Any]]:
        try:
            yield from self._batches()
        except DataError as error:
            self.close()  # else they would live as long as somebody keeps the error
            # one of a worker comes with its traceback: what counts is its one sentence
            sentence = str(error).strip().rpartition(f"{DataError.__module__}.{DataError.__name__}: ")[2]
            raise DataError(sentence) from None
        finally:
            if not self._items.persistent_workers:
                self.close()

    def _batches(self) -> Iterator[dict[str, Any]]:
        state = loader_state(self.stream, self.tally) if isinstance(self.stream, TrainStream) else None
        with held():
            self._running = iter(self._items)
        empty = True
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
        """End the workers, within `GRACE` seconds whatever they are at."""
        running, self._running = self._running, None
        if not isinstance(running, _MultiProcessingDataLoaderIter):
            return
        if running._worker_pids_set:
            _remove_worker_pids(id(running))  # else torch takes the end of a worker for a failure
            running._worker_pids_set = False
        late = threading.Timer(GRACE, lambda: [worker.kill() for worker in running._workers])
        late.start()
        running._shutdown_workers()
        late.cancel()


_loaders: weakref.WeakSet[Loader] = weakref.WeakSet()


@atexit.register  # after torch and multiprocessing, so called before them: they would wait for the workers
def end_workers() -> None:
    """Close all loaders of this process."""
    for loader in list(_loaders):
        loader.close()


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
    """What a worker does first: take one core, and see that it ends with the trainer.

    torch's loader keeps torch to one thread; OpenCV would start one for each core. What a worker inherits belongs to
    the trainer: to collect it here would copy its memory, and close loaders that are not this worker's.
    """
    end_with_parent()
    gc.freeze()
    if "cv2" in sys.modules:
        sys.modules["cv2"].setNumThreads(0)
