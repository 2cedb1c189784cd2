"""Where a run stands: a bar on a terminal, a line every few seconds in `run.log` and wherever there is no terminal."""

import logging
import sys
import time
from collections.abc import Mapping
from typing import Any

import rich.progress as bars
from lightning import Callback, LightningModule, Trainer

log = logging.getLogger(__name__)


class Progress(Callback):
    """Reports step, rate, time left, the loss, and what `speed/` holds.

    Args:
        every_seconds: between two lines.
        log_every: steps between two rows of metrics. They are fetched then alone: to do so waits for the device.
        terminal: whether to draw a bar; by default where stdout is a terminal.
    """

    def __init__(self, every_seconds: float = 10.0, log_every: int = 1, terminal: bool | None = None) -> None:
        self.every_seconds = every_seconds
        self.log_every = log_every
        self._metrics, self._fetched = "", 0  # as text, and the step of which they are
        self.terminal = sys.stdout.isatty() if terminal is None else terminal
        self._bar: bars.Progress | None = None
        self._task = bars.TaskID(0)
        self._first, self._began = 0, 0.0  # step and time at which this process began
        self._last, self._told = 0, 0.0  # the same of the last line
        self._validated, self._validates = 0.0, 0.0  # seconds of all validations, and when the last one began

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._first = self._last = trainer.global_step
        self._began = self._told = time.monotonic()
        if self.terminal and trainer.is_global_zero:
            _keep_lines_from_the_terminal()
            columns = ("{task.description}", bars.BarColumn(), "{task.completed}/{task.total}", "{task.fields[rate]}")
            self._bar = bars.Progress(*columns, "{task.fields[metrics]}", refresh_per_second=4)
            self._task = self._bar.add_task("training", total=trainer.max_steps, rate="", metrics="")
            self._bar.start()

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        step, now = trainer.global_step, time.monotonic()
        if step % self.log_every == 0 and step > self._fetched:
            self._fetched = step
            metrics = trainer.callback_metrics
            loss = {name: value for name, value in metrics.items() if name == "loss"}
            self._metrics = f"{_pairs(loss)}  {_speed(metrics)}".strip()
        if self._bar is not None:
            rate = self._rate(trainer, self._first, self._began)
            self._bar.update(self._task, completed=step, rate=rate, metrics=self._metrics)
        done = step >= trainer.max_steps or trainer.should_stop
        if step > self._last and (now - self._told >= self.every_seconds or done):
            share = f"{100 * step / trainer.max_steps:.0f}%"
            rate = self._rate(trainer, self._last, self._told)
            _say(trainer, f"step {step}/{trainer.max_steps}  {share}  {rate}  {self._metrics}")
            self._last, self._told = step, now

    def on_validation_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validates = time.monotonic()
        if self._bar is not None:
            self._bar.update(self._task, description="validating")

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._validated += time.monotonic() - self._validates
        if self._bar is not None:
            self._bar.update(self._task, description="training")
        shown = {
            name: value for name, value in trainer.callback_metrics.items() if name.startswith(("val/", "measure/"))
        }
        _say(trainer, f"step {trainer.global_step}  validation  {_pairs(shown)}")

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if self._bar is not None:
            self._bar.stop()
        steps, seconds = trainer.global_step - self._first, time.monotonic() - self._began
        share = f", {self._validated / seconds:.0%} of it validation" if self._validated else ""
        _say(trainer, f"{steps} steps in {duration(seconds)}{share}")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._bar is not None:
            self._bar.stop()

    def _rate(self, trainer: Trainer, since_step: int, since: float) -> str:
        rate = (trainer.global_step - since_step) / max(time.monotonic() - since, 1e-9)
        left = duration((trainer.max_steps - trainer.global_step) / rate) if rate else "?"
        return f"{rate:.2f} it/s  eta {left}" if rate >= 1 or not rate else f"{1 / rate:.1f} s/it  eta {left}"


def duration(seconds: float) -> str:
    """Write seconds as `42s`, `10m04s` or `3h05m`."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    if hours:
        return f"{hours}h{minutes:02d}m"
    return f"{minutes}m{rest:02d}s" if minutes else f"{rest}s"


def _pairs(metrics: dict[str, Any]) -> str:
    return "  ".join(f"{name} {float(value):.4g}" for name, value in metrics.items() if name != "v_num")


def _speed(metrics: Mapping[str, Any]) -> str:
    parts = {
        "images_per_second": "{:.4g} images/s",
        "waiting_for_data": "{:.0%} waiting",
        "tflops": "{:.3g} TFLOP/s",
        "mfu": "MFU {:.0%}",
        "peak_memory_gb": "{:.2f} GB",
    }
    found = {name: metrics.get(f"speed/{name}") for name in parts}
    return "  ".join(parts[name].format(float(value)) for name, value in found.items() if value is not None)


def _say(trainer: Trainer, line: str) -> None:
    if trainer.is_global_zero:
        log.info(line.rstrip())


def _keep_lines_from_the_terminal() -> None:
    for handler in logging.getLogger().handlers:
        if isinstance(handler, logging.StreamHandler) and not isinstance(handler, logging.FileHandler):
            handler.addFilter(lambda record: record.name != __name__)
