"""Which of several equal forms is the fastest here: each is timed once, the answer is kept."""

import logging
import math
import statistics
from collections.abc import Callable, Hashable, Mapping

import torch

log = logging.getLogger(__name__)


def cuda_milliseconds(run: Callable[[], None]) -> float:
    """Median time of `run` on the current stream once it is warm, infinite if it does not fit into memory."""
    times = []
    try:
        for _ in range(3):  # cuDNN tries its own algorithms in the first
            run()
        for _ in range(5):
            start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
            start.record()
            run()
            end.record()
            end.synchronize()
            times.append(start.elapsed_time(end))
    except torch.cuda.OutOfMemoryError:
        return math.inf
    return statistics.median(times)


class Choice:
    """Remembers for each key the name that won.

    Args:
        clock: runs a form and tells how long it takes, in any unit.
    """

    def __init__(self, clock: Callable[[Callable[[], None]], float] = cuda_milliseconds) -> None:
        self.clock = clock
        self.winners: dict[Hashable, str] = {}

    def fastest(self, key: Hashable, runs: Mapping[str, Callable[[], None]]) -> str:
        """The name of the fastest of `runs`, timed if `key` is new; among equals the first."""
        if key not in self.winners:
            times = {name: self.clock(run) for name, run in runs.items()}
            self.winners[key] = min(times, key=times.__getitem__)
            log.debug("%s: %s", key, times)
        return self.winners[key]
