"""Two processes that take turns: what lies in different environments is compared pair by pair on the same machine.

A worker builds what it measures and then does it once for each line of its input. It answers with numbers on a line of
their own, which begins with `ANSWER`; whatever else it or its libraries print is passed over. This file imports nothing
but the standard library, since workers of other environments import it as well.
"""

import os
import platform
import re
import statistics
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).parents[1]
ANSWER = "answer:"
STATUS, RESET = Path("/proc/self/status"), Path("/proc/self/clear_refs")
# Freed memory goes back to the system at once, so that the peak is of what is in use.
TIDY = {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "65536"}


def answer(*values: float) -> None:
    print(ANSWER, *values, flush=True)


def asked() -> Iterator[str]:
    """The lines of the input; answers each with the seconds until the next is wanted, and the peak memory of that time.

    The memory is that of the process in bytes above what it held before, 0 where the system does not tell.
    """
    for line in sys.stdin:
        before, start = begin_peak(), time.perf_counter()
        yield line.strip()
        seconds = time.perf_counter() - start
        answer(seconds, resident("VmHWM") - before)


def begin_peak() -> int:
    """Forget the highest memory so far; returns that of now in bytes."""
    if RESET.exists():
        RESET.write_text("5")  # proc(5): the peak begins anew
    return resident("VmRSS")


def resident(kind: str) -> int:
    found = re.search(rf"{kind}:\s+(\d+) kB", STATUS.read_text()) if STATUS.exists() else None
    return int(found[1]) * 1024 if found else 0


class Worker:
    """A process that answers as above.

    Args:
        command: what is run.
        threads: of its computations.
        settings: what is set in its environment.
        tree: the checkout that it runs in.
    """

    def __init__(
        self, command: Sequence[str], threads: int, settings: Mapping[str, str] | None = None, tree: Path = ROOT
    ) -> None:
        environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
        environment |= {"OMP_NUM_THREADS": str(threads), "MKL_NUM_THREADS": str(threads)} | dict(settings or {})
        self.command = command
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                                        env=environment, cwd=tree)  # fmt: skip

    def ask(self, line: str = "") -> list[float]:
        """Let it work once and return its numbers."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        print(line, file=self.process.stdin, flush=True)
        for said in self.process.stdout:
            if said.startswith(ANSWER):
                return [float(value) for value in said.removeprefix(ANSWER).split()]
        raise SystemExit(f"a worker has ended: {' '.join(self.command)}")

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@dataclass(frozen=True)
class Compared:
    """Numbers of both sides, pair by pair; none of another that was not asked."""

    ours: list[float]
    other: list[float]

    @property
    def medians(self) -> tuple[float, ...]:
        return tuple(statistics.median(side) for side in (self.ours, self.other) if side)


def compare(ours: Worker, other: Worker | None, pairs: int, warm: int, works: int, column: int = 0) -> Compared:
    """Let both take turns; without another, ours alone is asked. Each pair is told on stderr as it comes.

    Args:
        pairs: that count.
        warm: pairs before those.
        works: in a turn, of which the last counts.
        column: of the answers.
    """
    sides = [ours] if other is None else [ours, other]
    found: list[list[float]] = []
    for number in range(1 - warm, pairs + 1):
        found.append([[side.ask() for _ in range(works)][-1][column] for side in sides])
        told = " ".join(f"{value:.4g}" for value in found[-1])
        print(f"pair {number} of {pairs}: {told}" if number > 0 else f"warm-up: {told}", file=sys.stderr, flush=True)
    columns = list(zip(*found[warm:], strict=True))
    return Compared(list(columns[0]), list(columns[-1]) if other is not None else [])


def machine(threads: int) -> str:
    """Commit, hardware, threads and load, as the head of a table."""
    commit = subprocess.run(["git", "describe", "--always", "--dirty"], capture_output=True, text=True, cwd=ROOT).stdout
    cpuinfo = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", cpuinfo.read_text()) if cpuinfo.exists() else []
    return (
        f"commit {commit.strip() or 'unknown'}; {models[0] if models else platform.machine()}, {os.cpu_count()} cores, "
        f"{threads} threads, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY', 'unset')}, "
        f"load {os.getloadavg()[0]:.2f}"
    )
