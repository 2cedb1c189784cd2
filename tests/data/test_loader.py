"""How the workers of a loader live and end; what they load is in test_stream.py and test_resume.py."""

import multiprocessing
import os
import subprocess
import sys
import time
from pathlib import Path

import pytest
from torch.utils.data import IterableDataset

from fluxflow.data.streaming.loader import Loader
from fluxflow.data.streaming.rejections import SampleCounts
from fluxflow.data.streaming.streams import Item
from fluxflow.signals import SIGNALS
from tests.test_signals import is_running

ROOT = Path(__file__).parents[2]


class Processes(IterableDataset):
    """Batches that say which process made them, each later one after a time.

    Args:
        seconds: that it takes.
    """

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def __iter__(self):
        while True:
            yield Item({"pid": os.getpid()}, seen=1)
            time.sleep(self.seconds)


def test_workers_outlive_the_signals_of_their_group():
    batches = iter(Loader(Processes(0.05), 1, SampleCounts()))
    worker = next(batches)["pid"]
    for number in SIGNALS:
        os.kill(worker, number)
    assert [next(batches)["pid"] for _ in range(6)] == [worker] * 6


@pytest.mark.parametrize("persistent", [False, True])
def test_closing_does_not_wait_for_batches_that_have_begun(persistent):
    loader = Loader(Processes(60), 2, SampleCounts(), persistent)
    batches = iter(loader)
    workers = {next(batches)["pid"], next(batches)["pid"]}
    start = time.monotonic()
    loader.close()
    assert time.monotonic() - start < 4
    assert not any(map(is_running, workers))
    assert len(workers) == 2


def test_workers_end_with_the_loop_over_their_batches():
    for _ in Loader(Processes(0.01), 2, SampleCounts()):
        break
    assert multiprocessing.active_children() == []


@pytest.mark.parametrize("end", ["raise RuntimeError", "os.kill(os.getpid(), 9)"])
def test_no_worker_outlives_a_process_that_fails_or_is_killed(end):
    """The error keeps the iterator, and a worker is in the midst of a batch."""
    code = f"""
import os
from fluxflow.data.streaming.loader import Loader
from fluxflow.data.streaming.rejections import SampleCounts
from tests.data.test_loader import Processes
batches = iter(Loader(Processes(60), 2, SampleCounts(), persistent=True))
print(next(batches)["pid"], next(batches)["pid"], flush=True)
{end}
"""
    process = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    workers = [int(pid) for pid in process.stdout.readline().split()]
    start = time.monotonic()
    assert process.wait(10) != 0
    while any(map(is_running, workers)) and time.monotonic() < start + 5:
        time.sleep(0.05)
    assert time.monotonic() - start < 5
    assert len(workers) == 2
