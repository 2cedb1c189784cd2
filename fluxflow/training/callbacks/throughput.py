"""How fast a run trains, how much of the time it waits for images, and what it asks of the device."""

import resource
import sys
import time
from collections import deque
from typing import Any

import torch
from lightning import Callback, Trainer

from fluxflow.metrics.peak import device_peak
from fluxflow.training.ema import callbacks_of

WINDOW = 50  # batches

Stage = Any  # a VAELitModule or FlowLitModule; Lightning's hooks are typed for every module


class Throughput(Callback):
    """Logs the speed over the last batches, under `speed/`.

    - `images_per_second` over all ranks.
    - `waiting_for_data`, the share of the time in [0, 1].
    - `tflops` of each device: the operations that the networks ask of it (`fluxflow.training.flops`), 10¹² a second.
    - `mfu`, the share of what the device can do that they are; only where that is known. Of a CPU, it is measured.
    - `peak_memory_gb`: the most that the tensors of a GPU, or on a CPU the process, ever took, in 10⁹ bytes.

    What callbacks after this one do between two steps counts for no time, nor does validation: previews, saving.

    Args:
        every: steps between two rows.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._logged = 0
        # of each: images, operations, seconds waited, seconds in all
        self._batches: deque[tuple[int, int, float, float]] = deque(maxlen=WINDOW)
        self._operations = 0
        self._others = _Others()
        self._start = 0.0
        self._peak: float | None = None

    def setup(self, trainer: Trainer, pl_module: Stage, stage: str) -> None:
        callbacks = callbacks_of(trainer)
        if self._others not in callbacks:
            callbacks.append(self._others)

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        self._peak = device_peak(pl_module.device, half=str(trainer.precision).endswith("mixed"))
        if pl_module.device.type == "cuda":
            torch.cuda.reset_peak_memory_stats(pl_module.device)

    def on_train_batch_start(self, trainer: Trainer, pl_module: Stage, batch: Any, batch_idx: int) -> None:
        self._operations = pl_module.flops(batch)
        self._start = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Stage, outputs: Any, batch: Any, batch_idx: int) -> None:
        images, ready = len(batch["caption"]), self._others.finished
        self._batches.append((images, self._operations, self._start - ready, time.perf_counter() - ready))
        step = trainer.global_step
        if step % self.every == 0 and step > self._logged:
            self._logged = step
            speed = self._speed(trainer.world_size) | {"peak_memory_gb": peak_memory(pl_module.device) / 1e9}
            pl_module.log_dict({f"speed/{name}": value for name, value in speed.items()}, batch_size=images)

    def _speed(self, ranks: int) -> dict[str, float]:
        images, operations, waited, seconds = map(sum, zip(*self._batches, strict=True))
        rate = operations / seconds
        speed = {"images_per_second": images * ranks / seconds, "waiting_for_data": waited / seconds}
        return speed | {"tflops": rate / 1e12} | ({"mfu": rate / self._peak} if self._peak else {})


class _Others(Callback):
    """The last callback: when all have finished what they do between two steps, and the next batch is awaited."""

    finished = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: Stage) -> None:
        self.finished = time.perf_counter()

    def on_train_batch_end(self, trainer: Trainer, pl_module: Stage, outputs: Any, batch: Any, batch_idx: int) -> None:
        self.finished = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: Stage) -> None:
        self.finished = time.perf_counter()


def peak_memory(device: torch.device) -> int:
    """The most bytes that the tensors of a GPU took, or elsewhere this process, so far."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit
