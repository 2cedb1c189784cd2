"""What is known of a run, and what follows from it: how far it came, how it ended, how long it took."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

PROGRESS = re.compile(r"step (\d+)/(\d+)  ")
STOPPED = re.compile(r"SIG[A-Z0-9]+: saving after this step")
NO_BETTER = re.compile(r"\S+ has not become better in \d+ validations: the run stops")
ENDED = re.compile(r"\d+ steps in [\dhms]+(, .* validation)?")

State = Literal["finished", "stopped", "failed", "killed", "at work", "unknown"]


class Series(NamedTuple):
    """A column of metrics.csv without its empty cells."""

    steps: NDArray[np.int64]
    values: NDArray[np.float64]


class Line(NamedTuple):
    """A line of run.log."""

    time: datetime
    level: str
    text: str


class Preview(NamedTuple):
    """An image grid of `previews/`."""

    step: int
    path: Path


class Rejections(NamedTuple):
    """Samples that were rejected for one reason: how many, and the first."""

    samples: int
    example: str


@dataclass(frozen=True)
class Run:
    """What a run folder holds; what is missing is empty.

    Args:
        folder: of the run.
        config: resolved, from config.yaml.
        metrics: the columns of metrics.csv, in their order.
        history: starts and ends, from history.jsonl, each with "event", "time" and "step".
        log: the dated lines of run.log.
        curves: lines of curves.jsonl, by step.
        rejected: reason → samples, from rejected.jsonl, the most frequent first.
        previews: by step.
        samples: image grids in samples/, or the images where there is no grid.
        evaluation: of evaluation.json.
        saved: the checkpoints that are there, and "model".
        held: whether a process works in the folder.
    """

    folder: Path
    config: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, Series] = field(default_factory=dict)
    history: list[dict[str, Any]] = field(default_factory=list)
    log: list[Line] = field(default_factory=list)
    curves: list[dict[str, Any]] = field(default_factory=list)
    rejected: dict[str, Rejections] = field(default_factory=dict)
    previews: list[Preview] = field(default_factory=list)
    samples: list[Path] = field(default_factory=list)
    evaluation: dict[str, Any] | None = None
    saved: tuple[str, ...] = ()
    held: bool = False

    @property
    def name(self) -> str:
        """The folder as `<stage>/<name>`."""
        return "/".join(self.folder.absolute().parts[-2:])

    def option(self, key: str, default: Any = None) -> Any:
        """The value of a dotted key of the config."""
        node: Any = self.config
        for part in key.split("."):
            if not isinstance(node, Mapping) or part not in node:
                return default
            node = node[part]
        return node

    def number(self, key: str, default: float) -> float:
        """The value of a dotted key of the config, if it is a number."""
        value = self.option(key)
        return value if isinstance(value, (int, float)) and not isinstance(value, bool) else default

    @cached_property
    def stage(self) -> Literal["vae", "flow", ""]:
        """Which one was trained; nothing where neither config nor metrics tell."""
        target = str(self.option("stage._target_", ""))
        if "VAE" in target or "train/kl" in self.metrics:
            return "vae"
        return "flow" if "Flow" in target or self.metrics else ""

    @cached_property
    def step(self) -> int:
        """The last step of which anything is known."""
        known = [int(series.steps[-1]) for series in self.metrics.values()]
        known += [int(match[1]) for line in self.log[::-1] if (match := PROGRESS.match(line.text))][:1]
        known += [event["step"] for event in self.history]
        return max(known, default=0)

    @cached_property
    def steps(self) -> int:
        """How many there were to be; 0 where that is not known."""
        ends = [event["steps"] for event in self.history if isinstance(event.get("steps"), int)]
        told = [int(match[2]) for line in self.log[::-1] if (match := PROGRESS.match(line.text))][:1]
        return int((ends[-1:] or told or [self.number("steps", 0)])[0])

    @cached_property
    def state(self) -> State:
        """How the run ended, by history.jsonl, or by run.log where an older version wrote none."""
        last = self.history[-1] if self.history else {}
        if last.get("event") == "end":
            reached = "finished" if last["step"] >= self.steps or self.gave_up else "stopped"
            return "failed" if last.get("error") else reached
        if self.held:
            return "at work"
        if last.get("event") == "start":
            return "killed"
        texts = [line.text for line in self.log]
        if texts and ENDED.fullmatch(texts[-1]) and self.step >= self.steps:
            return "finished"
        if any(map(STOPPED.fullmatch, texts[-10:])):
            return "stopped"
        has_ended = any(map(ENDED.fullmatch, texts[-5:]))
        return ("finished" if self.step >= self.steps else "stopped") if has_ended else "unknown"

    @property
    def gave_up(self) -> bool:
        """Whether the last validations were no better, and the run ended for it: callbacks.checkpoints.patience."""
        return any(NO_BETTER.fullmatch(line.text) for line in self.log[-10:])

    @property
    def error(self) -> str:
        """What ended a failed run."""
        return str(self.history[-1].get("error") or "") if self.history else ""

    @cached_property
    def started(self) -> datetime | None:
        """When the run first started, in the time zone of its machine."""
        times = [*_times(self.history), *(line.time for line in self.log[:1])]
        return times[0] if times else None

    @cached_property
    def seconds(self) -> float:
        """How long processes worked on the run, pauses between them left out where history.jsonl is there."""
        last = self.log[-1].time if self.log else None
        if not self.history:
            return (last - self.log[0].time).total_seconds() if last else 0.0
        total, begun = 0.0, None
        for event, time in zip(self.history, _times(self.history)):
            if event.get("event") == "start":
                begun = time
            elif begun is not None:
                total, begun = total + (time - begun).total_seconds(), None
        if begun is not None and last is not None:
            total += max(0.0, (last - begun.replace(tzinfo=None)).total_seconds())
        return total

    @property
    def start(self) -> dict[str, Any]:
        """The last start: command, versions, hardware, parameters."""
        starts = [event for event in self.history if event.get("event") == "start"]
        return starts[-1] if starts else {}

    @cached_property
    def warnings(self) -> list[Line]:
        """The different warnings and errors of run.log, the first of each text."""
        found = {line.text: line for line in reversed(self.log) if line.level in ("WARNING", "ERROR", "CRITICAL")}
        return sorted(found.values(), key=lambda line: line.time)


def _times(events: list[dict[str, Any]]) -> list[datetime]:
    return [datetime.fromisoformat(event["time"]) for event in events]
