"""Intervals: against closed forms and tables, and by how often they hold the truth."""

import math

import pytest
import torch

from fluxflow.metrics.intervals import (
    mean_interval,
    paired_interval,
    resampling_weights,
    share_interval,
    t_interval,
    t_quantile,
    verdict,
)


def test_weights_draw_as_many_as_there_are():
    weights = resampling_weights(50, resamples=1000)
    assert weights.sum(1).eq(50).all()
    assert weights.mean() == 1
    assert weights.var() == pytest.approx(1 - 1 / 50, rel=0.02)  # of a multinomial count


def test_the_interval_of_a_mean_is_that_of_the_central_limit():
    values = torch.randn(4000, generator=torch.Generator().manual_seed(1)) * 3 + 7
    found = mean_interval(values)
    half = 1.96 * float(values.std()) / math.sqrt(len(values))
    assert found.value == pytest.approx(float(values.mean()))
    assert found.low == pytest.approx(found.value - half, abs=0.1 * half)
    assert found.high == pytest.approx(found.value + half, abs=0.1 * half)


@pytest.mark.parametrize(
    ("true", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (5, 10, 0.2366, 0.7634), (10, 10, 0.7225, 1.0), (0, 50, 0.0, 0.0713)],
)
def test_the_interval_of_a_share_is_that_of_the_tables(true, count, low, high):
    found = share_interval(torch.arange(count) < true)
    assert found == pytest.approx((true / count, low, high), abs=1e-4)


def test_the_interval_of_a_share_holds_it():
    for share in (0.02, 0.3, 0.5):
        flags = torch.rand(4000, 100, generator=torch.Generator().manual_seed(2)) < share
        found = [share_interval(row) for row in flags]
        assert 0.9 <= sum(one.low <= share <= one.high for one in found) / len(found) <= 0.97, share


def test_pairs_take_out_what_both_share():
    shared = torch.randn(200, generator=torch.Generator().manual_seed(0)) * 100
    noise = torch.randn(200, generator=torch.Generator().manual_seed(1))
    found = paired_interval(shared + noise + 1, shared)
    assert 0.5 < found.low < 1 < found.high < 1.5


@pytest.mark.parametrize(
    ("probability", "freedom", "value"),
    [(0.975, 1, 12.7062), (0.975, 2, 4.30265), (0.975, 5, 2.57058), (0.95, 10, 1.81246), (0.995, 30, 2.74999)],
)
def test_quantiles_of_student_are_those_of_the_tables(probability, freedom, value):
    assert t_quantile(probability, freedom) == pytest.approx(value, rel=1e-5)


def test_one_value_has_no_bounds():
    assert math.isnan(mean_interval(torch.ones(1)).low)
    assert math.isnan(t_interval(torch.ones(1)).high)


@pytest.mark.parametrize(("count", "interval"), [(3, t_interval), (5, t_interval), (60, mean_interval)])
def test_intervals_hold_the_mean_nineteen_times_of_twenty(count, interval):
    generator = torch.Generator().manual_seed(0)
    sets = torch.randn(1000, count, generator=generator)
    held = [found.low <= 0 <= found.high for found in (interval(values) for values in sets)]
    assert 0.92 < sum(held) / len(held) < 0.97


def test_verdicts():
    first, second = torch.tensor([20.0, 21.0, 22.0]), torch.tensor([19.0, 20.1, 20.9])
    assert verdict(first, second, "higher").word == "better"
    assert verdict(first, second, "lower").word == "worse"
    assert verdict(first, second.flip(0), "higher").word == "inconclusive"
    assert verdict(first[:1], second[:1], "higher").word == "inconclusive"
