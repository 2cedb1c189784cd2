"""Signals that end a command, and processes that end with the one that started them.

Ctrl-C, SIGTERM, SIGHUP and SIGUSR1 mean the same: stop, with exit code 128 + n. A command that starts has nothing to
lose and leaves at once (`leave`). One that writes tidies up on its way out (`unwinding`). Training saves after its step
(`training.callbacks.Interruption`). A second signal always leaves at once.
"""

import multiprocessing
import os
import signal
import sys
import threading
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from multiprocessing.connection import wait
from types import FrameType
from typing import Any

from fluxflow.files import discard_begun

SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1)
PATIENCE = 3  # seconds for what is done on the way out
SHOW_CURSOR = "\x1b[?25h"  # a progress bar hides it

Handler = Callable[[int, FrameType | None], None]


class Stopped(SystemExit):
    """What a signal raises within `unwinding`; its code is 128 + n."""


def handle(handler: Handler) -> dict[int, Any]:
    """Give all `SIGNALS` a handler and return those before, for `restore`.

    Signals that are ignored (nohup) stay so; one that Python does not handle is left to who does (faulthandler).
    """
    heeded = [number for number in SIGNALS if signal.getsignal(number) not in (signal.SIG_IGN, None)]
    return {number: signal.signal(number, handler) for number in heeded}


def restore(previous: dict[int, Any]) -> None:
    """Give signals the handlers that `handle` returned."""
    for number, handler in previous.items():
        signal.signal(number, handler)


def leave(number: int, frame: FrameType | None = None) -> None:
    """End this process and its workers at once, in one line: no exception that others could print or swallow."""
    try:
        _tell(number)
        workers = multiprocessing.active_children()
        for worker in workers:
            worker.kill()
        for worker in workers:
            worker.join(1)
        discard_begun()
        sys.stdout.flush()
    finally:
        os._exit(128 + number)


@contextmanager
def unwinding(advice: str = "") -> Iterator[None]:
    """Within, a signal raises `Stopped`: `with` and `finally` tidy up. What takes longer than `PATIENCE` is left.

    Args:
        advice: what the line about the signal adds.
    """
    timers: list[threading.Timer] = []

    def unwind(number: int, frame: FrameType | None) -> None:
        handle(leave)
        timers.append(threading.Timer(PATIENCE, leave, (number,)))
        timers[0].daemon = True
        timers[0].start()
        _tell(number, advice)
        raise Stopped(128 + number)

    previous = handle(unwind)
    try:
        yield
    finally:
        for timer in timers:
            timer.cancel()
        restore(previous)


@contextmanager
def held(numbers: Collection[int] = SIGNALS) -> Iterator[None]:
    """Signals wait until the end of the block. They never reach the processes that are started in it."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, numbers)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def end_with_parent() -> None:
    """Have a process that multiprocessing started end as soon as its parent does, however that happens."""
    if parent := multiprocessing.parent_process():
        threading.Thread(target=_end_after, args=(parent.sentinel,), daemon=True).start()


def _end_after(sentinel: int) -> None:
    wait([sentinel])
    os._exit(1)


def _tell(number: int, advice: str = "") -> None:
    cursor = SHOW_CURSOR if os.isatty(2) else ""
    line = f"{cursor}stopped by {signal.Signals(number).name}{': ' if advice else ''}{advice}\n"
    os.write(2, line.encode())  # a handler may have interrupted sys.stderr
