"""The loader: workers that run a stream, and the state of all of them after each batch.

A terminal sends Ctrl-C and a scheduler SIGTERM to every process of a run. The trainer saves at the end of its step and
needs batches until then, so signals never reach its workers. They end with the trainer, or when it closes the loader.

The functions at the end say how a stream goes on from a checkpoint, there as here or with something changed.
"""

import atexit
import gc
import os
import sys
import threading
import weakref
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import torch
from torch._C import _remove_worker_pids
from torch.utils.data import DataLoader, IterableDataset
from torch.utils.data.dataloader import _MultiProcessingDataLoaderIter

from fluxflow.data.streaming.rejections import SampleCounts
from fluxflow.data.streaming.streams import Item, TrainStream
from fluxflow.errors import DataError
from fluxflow.signals import end_with_parent, held

GRACE = 1  # second for the batches that workers have begun, when they are no longer wanted
MOST_WORKERS = 8


class Loader:
    """The batches of a stream, in an order that depends on the stream and the number of workers alone.

    Each training batch holds, as "state", where the loader stands after it:
    {"turn": the worker that yields the next one, "workers": a state each, see TrainStream, "tally": the sample counts}.
    Checkpoints hold it, so its names stay.

    Args:
        stream: what is loaded. A training stream starts from its own states.
        num_workers: processes; 0 loads in this one.
        counts: count samples when their batch arrives here, and stop the run for too many bad ones.
        persistent: whether the workers stay between two iterations.
    """

    def __init__(
        self, stream: IterableDataset[Item], num_workers: int, counts: SampleCounts, persistent: bool = False
    ) -> None:
        self.stream = stream
        self.counts = counts
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
        state = loader_state(self.stream, self.counts) if isinstance(self.stream, TrainStream) else None
        with held():
            self._running = iter(self._items)
        empty = True
        for item in self._running:
            self.counts.add(item.seen, item.rejected)
            if state is not None:
                turn, workers = state["turn"], list(state["workers"])
                workers[turn] = item.state
                state = {"turn": (turn + 1) % len(workers), "workers": workers, "tally": self.counts.state()}
            if item.batch is not None:
                empty = False
                yield item.batch if state is None else item.batch | {"state": state}
        if empty and self.counts.bad:
            raise DataError(f"{self.counts.report()}; none is left to validate on.")

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


def loader_state(stream: TrainStream, counts: SampleCounts) -> dict[str, Any]:
    """Where a loader of a stream stands before its first batch."""
    states = stream.states or [{} for _ in range(stream.worker_shard.workers)]
    return {"turn": stream.turn, "workers": states, "tally": counts.state()}


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


# What the integers of a cursor's state depend on; "block_pieces" is the name in checkpoints of shuffle_shards.
RESHAPING = ("ranks", "workers", "block_pieces", "val_fraction")


def differing(there: Mapping[str, Any], here: Mapping[str, Any]) -> list[str]:
    """What a resumed run asks for otherwise than the one that wrote the checkpoint, in words."""
    return [f"{name} was {there.get(name)} and is {here[name]}" for name in here if there.get(name) != here[name]]


def changed_sources(there: Mapping[str, str], here: Mapping[str, str]) -> list[str]:
    """Names of the sources whose fingerprints differ, that are new or that are gone."""
    return sorted(name for name in there.keys() | here.keys() if there.get(name) != here.get(name))


def loader_states(saved: Mapping[str, Any], settings: Mapping[str, Any]) -> list[dict[str, Any]]:
    """The state of each rank's loader, from that of a checkpoint.

    With the same ranks, workers and blocks, every worker goes on where it was. With others, all of them go on at the
    mean progress of the epoch, which leaves out and repeats a few samples, and samples that wait for a batch are
    dealt out anew. A source that is no longer the same begins a new epoch.

    Args:
        saved: {"settings", "sources": fingerprints, "ranks": a loader's state each}, see loader.Loader.
        settings: those of this run, with "sources".
    """
    ranks: list[dict[str, Any]] = list(saved["ranks"])
    if any(saved["settings"].get(name) != settings["settings"][name] for name in RESHAPING):
        ranks = _reshaped(ranks, settings["settings"]["ranks"], settings["settings"]["workers"])
    changed = changed_sources(saved["sources"], settings["sources"])
    return [rank | {"workers": [_without(state, changed) for state in rank["workers"]]} for rank in ranks]


def _reshaped(saved: Sequence[dict[str, Any]], ranks: int, workers: int) -> list[dict[str, Any]]:
    old = [state for rank in saved for state in rank["workers"]]
    states, count = [state for state in old if state], ranks * workers  # those that have yielded nothing are empty
    progress = {name: sum(state["cursors"][name]["progress"] for state in states) / len(old)
                for state in states for name in state["cursors"]}  # fmt: skip
    pending = [reference for state in states for reference in state["pending"]]
    draws = sum(state["draws"] for state in states) // count
    new = [{"draws": draws, "cursors": {name: {"progress": x} for name, x in progress.items()},
            "pending": pending[index::count]} for index in range(count)]  # fmt: skip
    tally = {name: sum(rank["tally"][name] for rank in saved) // ranks for name in ("seen", "bad")}
    return [{"turn": 0, "workers": new[rank * workers : (rank + 1) * workers], "tally": tally} for rank in range(ranks)]


def _without(state: dict[str, Any], changed: Sequence[str]) -> dict[str, Any]:
    """A worker's state whose changed sources begin a new epoch."""
    if not state or not changed:
        return state
    cursors = {name: {"progress": float(int(cursor["progress"]) + 1)} if name in changed else cursor
               for name, cursor in state["cursors"].items()}  # fmt: skip
    return state | {"cursors": cursors, "pending": [r for r in state["pending"] if r[0] not in changed]}
