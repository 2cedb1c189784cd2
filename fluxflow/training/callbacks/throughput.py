"""How many images a second the run trains on, and how much of the time it waits for them."""

import time
from collections import deque
from typing import Any

from lightning import Callback, LightningModule, Trainer

WINDOW = 50  # batches


class Throughput(Callback):
    """Logs `speed/images_per_second` over all ranks and `speed/waiting_for_data` in [0, 1], over the last batches.

    Validation, previews and saving count for neither. On a GPU the wait is an upper bound: work that is still queued
    there goes on meanwhile.

    Args:
        every: steps between two rows.
    """

    def __init__(self, every: int) -> None:
        self.every = every
        self._logged = 0
        self._batches: deque[tuple[int, float, float]] = deque(maxlen=WINDOW)  # images, seconds waited, seconds in all
        self._ready = self._start = 0.0

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ready = time.perf_counter()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self._start = time.perf_counter()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        end = time.perf_counter()
        images = len(batch["caption"])
        self._batches.append((images, self._start - self._ready, end - self._ready))
        step = trainer.global_step
        if step % self.every == 0 and step > self._logged:
            self._logged = step
            total, waited, seconds = map(sum, zip(*self._batches, strict=True))
            speed = {"images_per_second": total * trainer.world_size / seconds, "waiting_for_data": waited / seconds}
            pl_module.log_dict({f"speed/{name}": value for name, value in speed.items()}, batch_size=images)
        self._ready = time.perf_counter()

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._ready = time.perf_counter()
