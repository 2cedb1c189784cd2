"""Progress of a long loop: rich on a terminal, a plain line every few seconds elsewhere."""

from __future__ import annotations

import importlib.util
import sys
import time
from collections.abc import Iterable, Iterator
from typing import TypeVar

T = TypeVar("T")


def with_progress(items: Iterable[T], total: int | None, every: float = 5.0) -> Iterator[T]:
    """Pass items on and report rate and time left on stderr.

    Args:
        items: What the loop goes over.
        total: How many there are, None if that is not known.
        every: Seconds between two plain lines.
    """
    if sys.stderr.isatty() and importlib.util.find_spec("rich"):
        yield from _rich(items, total)
    else:
        yield from _plain(items, total, every)


def _rich(items: Iterable[T], total: int | None) -> Iterator[T]:
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskProgressColumn, TimeRemainingColumn

    columns = (BarColumn(), MofNCompleteColumn(), TaskProgressColumn(show_speed=True), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True)) as bar:
        yield from bar.track(items, total=total)


def _plain(items: Iterable[T], total: int | None, every: float) -> Iterator[T]:
    start = last = time.monotonic()
    done = 0
    for done, item in enumerate(items, start=1):
        yield item
        now = time.monotonic()
        if now - last >= every:
            last = now
            _line(done, total, now - start)
    _line(done, total, time.monotonic() - start)


def _line(done: int, total: int | None, seconds: float) -> None:
    rate = done / max(seconds, 1e-9)
    line = f"{done}{f'/{total}' if total else ''} samples, {rate:.0f}/s"
    if total and rate:
        line += f", {max(total - done, 0) / rate:.0f} s left"
    print(line, file=sys.stderr, flush=True)
