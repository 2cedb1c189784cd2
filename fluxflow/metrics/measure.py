"""What an evaluation gives: figures with their intervals, and curves."""

import math
from dataclasses import asdict, dataclass, field
from typing import Any, Literal

import torch
from torch import Tensor

from fluxflow.metrics.intervals import Interval, mean_interval, share_interval

PARTS = {"vae": ("reconstruction",), "flow": ("velocity", "samples", "captions")}  # of an evaluation, by stage


@dataclass(frozen=True)
class Measure:
    """One figure.

    Args:
        name: its key, the same for every run.
        title: what a table calls it.
        interval: its value with bounds of 95 % confidence.
        count: images, or prompts, that it was taken over.
        group: "reconstruction", "latents", "velocity", "samples" or "captions".
        unit: of the value, or nothing.
        better: "higher" or "lower"; "" where neither is better.
    """

    name: str
    title: str
    interval: Interval
    count: int
    group: str
    unit: str = ""
    better: Literal["higher", "lower", ""] = ""

    def row(self) -> dict[str, Any]:
        """As it stands in evaluation.json; bounds that are not known are null."""
        row = asdict(self)
        bounds = (None if math.isnan(bound) else bound for bound in row.pop("interval"))
        return row | dict(zip(("value", "low", "high"), bounds))


@dataclass(frozen=True)
class Curve:
    """A figure as a function of something."""

    title: str
    x_title: str
    y_title: str
    x: list[float]
    series: dict[str, list[float]]


@dataclass
class Evaluation:
    """What one part of an evaluation found."""

    measures: list[Measure] = field(default_factory=list)
    curves: list[Curve] = field(default_factory=list)

    def add(self, name: str, title: str, values: Tensor | Interval, count: int | None = None, **options: Any) -> None:
        """Note a measure: values of independent images, [N], whose mean counts, or an interval with its count."""
        number = len(values) if count is None else count
        interval = values if isinstance(values, Interval) else _interval(values)
        self.measures.append(Measure(name, title, interval, number, **options))


def _interval(values: Tensor) -> Interval:
    return share_interval(values) if values.dtype == torch.bool else mean_interval(values.to(torch.float64))
