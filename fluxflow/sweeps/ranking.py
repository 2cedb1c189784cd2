"""Ranking the models of a sweep: over seeds, by paired differences, against what they cost.

A *model* is a choice of options other than the seed. Its jobs are its seeds. Two models are compared over the seeds
that both have: what a seed does to both, such as the order of the data, drops out of the differences.
"""

import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import torch

from fluxflow.metrics.intervals import Interval, Verdict, t_interval, verdict

Better = Literal["higher", "lower"]


@dataclass(frozen=True)
class Job:
    """One run of a sweep.

    Args:
        name: of its folder.
        options: those in which the jobs of the sweep differ, without the seed.
        seed: its seed.
        value: the measure by which models are ranked; None where it has none yet.
        costs: name → figure, such as parameters and milliseconds a step.
        budget: images that it was trained on.
        problem: why it has no value; empty where it has.
    """

    name: str
    options: dict[str, str]
    seed: int
    value: float | None
    costs: dict[str, float] = field(default_factory=dict)
    budget: float = math.nan
    problem: str = ""


@dataclass(frozen=True)
class Model:
    """The jobs of one choice of options."""

    options: dict[str, str]
    jobs: list[Job]

    @property
    def label(self) -> str:
        return " ".join(f"{key}={_short(value)}" for key, value in self.options.items()) or "all"

    @property
    def values(self) -> dict[int, float]:
        """The measure by seed."""
        return {job.seed: job.value for job in self.jobs if job.value is not None}

    @property
    def interval(self) -> Interval:
        """The mean over seeds, with Student's interval of 95 %."""
        return t_interval(torch.tensor(list(self.values.values()), dtype=torch.float64))

    def cost(self, name: str) -> float:
        """The mean of a cost over the jobs that know it."""
        found = [job.costs[name] for job in self.jobs if name in job.costs]
        return sum(found) / len(found) if found else math.nan


@dataclass(frozen=True)
class Comparison:
    """The best model against another."""

    best: Model
    other: Model
    verdict: Verdict
    seeds: int

    def sentence(self, measure: str) -> str:
        """What the comparison says, with the interval of the difference."""
        difference, shared = self.verdict.difference, f"{self.seeds} shared seed{'s' * (self.seeds != 1)}"
        names = f"{self.best.label} against {self.other.label}"
        if self.seeds < 2:
            return f"{names}: inconclusive, with {shared}: an interval takes two, a firm one three or more."
        span = f"{measure} {difference.value:+.4g} ({difference.low:+.4g} to {difference.high:+.4g}), {shared}"
        return f"{names}: {self.verdict.word}; {span}."


def models_of(jobs: Sequence[Job]) -> list[Model]:
    """The jobs by their options, in the order in which they first come."""
    grouped: dict[tuple[tuple[str, str], ...], list[Job]] = {}
    for job in jobs:
        grouped.setdefault(tuple(job.options.items()), []).append(job)
    return [Model(dict(options), found) for options, found in grouped.items()]


def ranked(models: Sequence[Model], better: Better) -> list[Model]:
    """Models with a value from best to worst by their means; those without one come last."""
    sign = -1 if better == "higher" else 1
    return sorted(models, key=lambda model: (not model.values, sign * model.interval.value if model.values else 0))


def comparisons(models: Sequence[Model], better: Better) -> list[Comparison]:
    """The first of ranked models against each of the others, over the seeds that both have.

    The best one was chosen by the same values, so the intervals share one error of 5 % over all pairs of models
    (Bonferroni): of equally good models, one is called better in at most one sweep of twenty.
    """
    having = [model for model in models if model.values]
    confidence = 1 - 0.05 / max(1, math.comb(len(having), 2))
    return [_compare(having[0], other, better, confidence) for other in having[1:]]


def _compare(best: Model, other: Model, better: Better, confidence: float) -> Comparison:
    seeds = sorted(best.values.keys() & other.values.keys())
    first, second = (torch.tensor([m.values[seed] for seed in seeds], dtype=torch.float64) for m in (best, other))
    if not seeds:
        return Comparison(best, other, Verdict("inconclusive", Interval(math.nan, math.nan, math.nan)), 0)
    return Comparison(best, other, verdict(first, second, better, confidence), len(seeds))


def pareto_front(models: Sequence[Model], cost: str, better: Better) -> list[Model]:
    """The models that no other is both as good as and as cheap as, from cheap to dear."""
    sign = -1 if better == "higher" else 1
    points = [(model.cost(cost), sign * model.interval.value, model) for model in models if model.values]
    points = sorted((point for point in points if not math.isnan(point[0])), key=lambda point: point[:2])
    front, least = [], math.inf
    for _, value, model in points:
        if value < least:
            front.append(model)
            least = value
    return front


def warnings(models: Sequence[Model]) -> list[str]:
    """What makes the comparison unfair or weak: unequal numbers of seeds, images or settings, jobs without a value."""
    found = []
    seeds = {len(model.values) for model in models}
    if len(seeds) > 1:
        found.append(f"The models have different numbers of seeds, from {min(seeds)} to {max(seeds)}.")
    budgets = {round(job.budget) for model in models for job in model.jobs if job.value and not math.isnan(job.budget)}
    if len(budgets) > 1:
        found.append(
            f"The jobs were trained on different numbers of images, from {min(budgets):,} to {max(budgets):,}."
        )
    found += _search_budgets(models)
    failed = [job for model in models for job in model.jobs if job.value is None]
    found += [f"{job.name} has no value: {job.problem}" for job in failed]
    return found


def _search_budgets(models: Sequence[Model]) -> list[str]:
    """A sentence for each option whose values were tried with different numbers of settings of the others.

    The best of many settings is better than the best of few, whatever the option is worth.
    """
    found = []
    for key in dict.fromkeys(key for model in models for key in model.options):
        tried = Counter(model.options.get(key, "–") for model in models if model.values)
        if len(set(tried.values())) > 1:
            (most, many), (least, few) = tried.most_common()[0], tried.most_common()[-1]
            found.append(
                f"The search was unequal: {key}={_short(most)} was tried with {many} settings of the other options, "
                f"{_short(least)} with {few}."
            )
    return found


def _short(value: str) -> str:
    """A number in four digits, anything else as it is."""
    try:
        return value if value.isdigit() else f"{float(value):.4g}"
    except ValueError:
        return value
