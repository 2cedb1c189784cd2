"""Prints what a busy neighbour costs a training step: python -m benchmarks.busy [--pairs 7] [--steps 20] [--spins 2000]

The step is that of the demo's VAE, on pictures in memory. Processes that differ in how long OpenMP's threads spin take
turns, first on an idle machine, then beside one other process that computes without a pause. Each row gives the steps a
second of both, how many times as slow the neighbour makes a step, and the idle speed as a ratio to that of the first
row, which spins as long as OpenMP does by default; ranges are over the pairs.
"""

import argparse
import os
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager

from benchmarks.pairs import Worker, machine
from fluxflow.threads import SPINS

DEFAULT = "300000"  # of GNU's OpenMP, env.c of libgomp
COMPUTES = "x = 1\nwhile True: x = x * 3 % 1000003"


@contextmanager
def neighbour() -> Iterator[None]:
    """One process that computes as long as this lasts."""
    process = subprocess.Popen([sys.executable, "-c", COMPUTES])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def rate(worker: Worker, steps: int) -> float:
    """Steps a second."""
    return steps / sum(worker.ask()[0] for _ in range(steps))


def spread(values: list[float]) -> str:
    return f"{statistics.median(values):6.2f} ({min(values):.2f}–{max(values):.2f})"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=20, help="of each half of a pair")
    parser.add_argument("--spins", nargs="+", default=[SPINS], help="rows beside OpenMP's default")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    options = parser.parse_args()
    print(machine(options.threads), flush=True)
    rows = [DEFAULT, *options.spins]
    with ExitStack() as stack:
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        command = [sys.executable, "-m", "benchmarks.ours", "vae_demo", f'{{"folder": "{folder}"}}']
        workers = [
            stack.enter_context(closing(Worker(command, options.threads, {"GOMP_SPINCOUNT": spins}))) for spins in rows
        ]
        for worker in workers:
            rate(worker, 3)  # compiles, and fills the heap
        idle: list[list[float]] = []
        busy: list[list[float]] = []
        for _ in range(options.pairs):
            idle.append([rate(worker, options.steps) for worker in workers])
            with neighbour():
                busy.append([rate(worker, options.steps) for worker in workers])
    print(f"{'spins':>7}   steps/s idle           beside a neighbour     slower by              idle, to the first row")
    for spins, alone, beside in zip(rows, zip(*idle, strict=True), zip(*busy, strict=True), strict=True):
        slower = [a / b for a, b in zip(alone, beside, strict=True)]
        against = [a / first[0] for a, first in zip(alone, idle, strict=True)]
        found = " ".join(f"{spread(column):>22}" for column in (list(alone), list(beside), slower, against))
        print(f"{spins:>7} {found}")


if __name__ == "__main__":
    main()
