"""How sure a figure is: intervals by resampling where there are many samples, by Student's t where there are few.

A bootstrap (Efron, 1979) draws as many samples as there are, with replacement, and looks at how the statistic varies.
Resampled sets are given as *weights* [R, N]: how often each sample is drawn into each of R sets.
"""

import math
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

RESAMPLES = 2000


class Interval(NamedTuple):
    """An estimate, and the bounds of its confidence interval."""

    value: float
    low: float
    high: float


def resampling_weights(count: int, resamples: int = RESAMPLES, seed: int = 0) -> Tensor:
    """How often each of `count` samples is drawn into each resampled set, [R, N] in float64."""
    generator = torch.Generator().manual_seed(seed)
    drawn = torch.randint(count, (resamples, count), generator=generator)
    return torch.zeros(resamples, count, dtype=torch.float64).scatter_add_(1, drawn, torch.ones(drawn.shape).double())


def percentile_interval(value: float, resampled: Tensor, confidence: float = 0.95) -> Interval:
    """The percentiles of a statistic over resampled sets, [R], around its value on the samples themselves."""
    tail = (1 - confidence) / 2
    low, high = torch.quantile(resampled.double(), torch.tensor([tail, 1 - tail], dtype=torch.float64)).tolist()
    return Interval(value, low, high)


def mean_interval(values: Tensor, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean of independent samples, [N], with its bootstrap interval; a single one has no bounds."""
    values = values.double().flatten()
    if len(values) < 2:
        return Interval(float(values.mean()), math.nan, math.nan)
    weights = resampling_weights(len(values), seed=seed)
    return percentile_interval(float(values.mean()), weights @ values / len(values), confidence)


def share_interval(flags: Tensor, z: float = 1.96) -> Interval:
    """The share of independent flags that are true, [N], with Wilson's score interval (1927).

    A bootstrap has no width where all flags are alike, and 0 of 50 may well be 5 % of all there could be.

    Args:
        flags: of any type, true or false.
        z: quantile of the normal distribution; 1.96 for a confidence of 95 %.
    """
    count, share = flags.numel(), float(flags.double().mean())
    middle = (share + z**2 / (2 * count)) / (1 + z**2 / count)
    half = z / (1 + z**2 / count) * math.sqrt(share * (1 - share) / count + z**2 / (4 * count**2))
    return Interval(share, max(0.0, middle - half), min(1.0, middle + half))


def paired_interval(first: Tensor, second: Tensor, confidence: float = 0.95, seed: int = 0) -> Interval:
    """The mean of `first` − `second` over the same samples, [N] each, with its bootstrap interval."""
    return mean_interval(first.double() - second.double(), confidence, seed)


def t_interval(values: Tensor, confidence: float = 0.95) -> Interval:
    """The mean of a few independent values that are about normal, such as those of several seeds, [N].

    A bootstrap of fewer than about ten values is too narrow (its interval over three covers the mean three times out of
    four); Student's t is exact for normal ones. A single value has no bounds.
    """
    values = values.double().flatten()
    count, mean = len(values), float(values.mean())
    if count < 2:
        return Interval(mean, math.nan, math.nan)
    half = t_quantile((1 + confidence) / 2, count - 1) * float(values.std()) / math.sqrt(count)
    return Interval(mean, mean - half, mean + half)


def t_quantile(probability: float, freedom: int) -> float:
    """Quantile of Student's t for a probability in [0.5, 1), by bisection of its distribution function."""
    low, high = 0.0, 1.0
    while t_distribution(high, freedom) < probability:
        high *= 2
    for _ in range(100):
        middle = (low + high) / 2
        low, high = (middle, high) if t_distribution(middle, freedom) < probability else (low, middle)
    return (low + high) / 2


def t_distribution(t: float, freedom: int) -> float:
    """P(T ≤ t) of Student's t with whole degrees of freedom (Abramowitz & Stegun, 26.7.3 and 26.7.4)."""
    angle = math.atan(t / math.sqrt(freedom))
    sine, square = math.sin(angle), math.cos(angle) ** 2
    odd = freedom % 2
    term, total = (math.cos(angle) if odd else 1.0), 0.0
    for k in range(1 + odd, freedom, 2):
        total += term
        term *= square * k / (k + 1)
    within = 2 / math.pi * (angle + sine * total) if odd else sine * total
    return (1 + within) / 2


@dataclass(frozen=True)
class Verdict:
    """Which of two is better, from paired differences."""

    word: str  # "better", "worse" or "inconclusive"
    difference: Interval


def verdict(first: Tensor, second: Tensor, better: str, confidence: float = 0.95) -> Verdict:
    """Whether `first` is better than `second`, from values that belong together by pairs, such as those of one seed.

    Args:
        first, second: [N] each, in the same order.
        better: "higher" or "lower".
        confidence: of the interval of the difference; if it holds 0, the verdict is "inconclusive".
    """
    difference = t_interval(first.double() - second.double(), confidence)
    if not difference.low * difference.high > 0:  # so that NaN, of a single pair, is inconclusive
        return Verdict("inconclusive", difference)
    return Verdict("better" if (difference.value > 0) == (better == "higher") else "worse", difference)
