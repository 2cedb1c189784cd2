"""Progress of long work: rich on a terminal, a plain line every few seconds elsewhere."""

import importlib.util
import sys
import time


class Progress:
    """Reports amount, rate and time left on stderr, as a context manager.

    Args:
        name: what is being done.
        unit: what is counted.
        total: how many there are.
        every: seconds between two plain lines.
    """

    def __init__(self, name: str, unit: str, total: int, every: float = 5.0) -> None:
        self.name = name
        self.unit = unit
        self.total = total
        self.every = every
        self.done = self.earlier = 0
        self.start = self.last = time.monotonic()
        self._rich = None
        if sys.stderr.isatty() and importlib.util.find_spec("rich"):
            from rich import progress
            from rich.console import Console

            columns = (progress.TextColumn("{task.description}"), progress.BarColumn(), progress.MofNCompleteColumn(),
                       progress.TaskProgressColumn(show_speed=True), progress.TimeRemainingColumn())  # fmt: skip
            self._rich = progress.Progress(*columns, console=Console(stderr=True))
            self._task = self._rich.add_task(name, total=total)

    def __enter__(self) -> "Progress":
        if self._rich is not None:
            self._rich.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._rich is not None:
            self._rich.stop()
        elif kind is None:
            self._line()

    def advance(self, number: int, earlier: bool = False) -> None:
        """Count work.

        Args:
            number: of units that are done now.
            earlier: whether an earlier run did them, so that they say nothing of the rate.
        """
        self.done += number
        self.earlier += number if earlier else 0
        if self._rich is not None and earlier:
            self._rich.reset(self._task, completed=self.done)
        elif self._rich is not None:
            self._rich.advance(self._task, number)
        elif time.monotonic() - self.last >= self.every:
            self.last = time.monotonic()
            self._line()

    def _line(self) -> None:
        rate = (self.done - self.earlier) / max(time.monotonic() - self.start, 1e-9)
        line = f"{self.name}: {self.done}/{self.total} {self.unit}, {rate:.0f}/s"
        if rate and self.done < self.total:
            line += f", {(self.total - self.done) / rate:.0f} s left"
        print(line, file=sys.stderr, flush=True)
