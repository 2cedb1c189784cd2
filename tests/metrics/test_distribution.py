"""Distances between sets: against brute force, torchmetrics and closed forms."""

import itertools

import pytest
import torch
from torchmetrics.image.fid import _compute_fid
from torchmetrics.image.kid import maximum_mean_discrepancy, poly_mmd

from fluxflow.metrics import distribution as d


def normal(count: int, features: int = 8, seed: int = 0, shift: float = 0.0) -> torch.Tensor:
    return torch.randn(count, features, generator=torch.Generator().manual_seed(seed)) + shift


def test_kid_is_that_of_torchmetrics():
    first, second = normal(60), normal(60, seed=1, shift=0.3)
    kernels = [d.polynomial_kernel(a, b) for a, b in ((first, first), (first, second), (second, second))]
    assert d.kid(first, second).value == pytest.approx(float(maximum_mean_discrepancy(*kernels)), rel=1e-9)
    assert d.kid(first, second).value == pytest.approx(float(poly_mmd(first.double(), second.double())), rel=1e-6)


def test_cmmd_is_that_of_its_paper():
    """A thousand times the squared MMD, without the pairs of an image with itself, of unit vectors and σ = 10."""
    first, second = (torch.nn.functional.normalize(normal(20, seed=seed), dim=1).double() for seed in (0, 1))

    def mean(a, b, same):
        values = [
            torch.exp(-((a[i] - b[j]) ** 2).sum() / 200) for i in range(20) for j in range(20) if i != j or not same
        ]
        return float(sum(values) / len(values))

    expected = 1000 * (mean(first, first, True) + mean(second, second, True) - 2 * mean(first, second, False))
    assert d.cmmd(3 * first, 2 * second).value == pytest.approx(expected, rel=1e-6, abs=1e-9)


def test_paired_kid_leaves_out_the_pairs():
    """Against a sum over all pairs of different images; equal sets give 0, and not less."""
    first, second = normal(12), normal(12) + 0.1 * normal(12, seed=1)
    total = sum(
        d.polynomial_kernel(a[i : i + 1], b[j : j + 1]).item() * sign
        for (a, b, sign) in ((first, first, 1), (second, second, 1), (first, second, -2))
        for i, j in itertools.permutations(range(12), 2)
    )
    assert d.kid(first, second, paired=True).value == pytest.approx(total / (12 * 11), rel=1e-9)
    assert d.kid(first, first, paired=True).value == pytest.approx(0, abs=1e-12)
    assert d.kid(first, first).value < -0.1


def test_the_interval_of_kid_holds_its_expectation():
    """The squared MMD of two normal sets under this kernel, by a large sample, nineteen times of twenty."""
    truth = d.kid(normal(3000, 4), normal(3000, 4, seed=1, shift=0.5)).value
    held = 0
    for seed in range(200):
        found = d.kid(normal(80, 4, seed=2 * seed + 5), normal(80, 4, seed=2 * seed + 6, shift=0.5))
        held += found.low <= truth <= found.high
    assert 0.90 <= held / 200 <= 0.985


def test_kid_of_halves_is_about_zero_and_grows_with_the_shift():
    halves = d.kid(normal(300), normal(300, seed=1))
    assert halves.low < 0 < halves.high
    values = [d.kid(normal(300), normal(300, seed=1, shift=shift)).value for shift in (0.1, 0.3, 1.0)]
    assert halves.value < values[0] < values[1] < values[2]


def test_frechet_distance_is_that_of_torchmetrics_and_of_normal_sets():
    first, second = normal(500, 6).double(), (normal(500, 6, seed=1) * 1.5 + 1).double()
    moments = [moment for values in (first, second) for moment in (values.mean(0), values.T.cov())]
    assert d.frechet_distance(first, second) == pytest.approx(float(_compute_fid(*moments)), rel=1e-6)
    exact = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])  # of variance 2 and 0
    assert d.frechet_distance(exact, 2 * exact + 3) == pytest.approx(2 * 9 + 2 * (2 - 1) ** 2)


def test_neighbourhoods_by_brute_force():
    samples, photographs, k = normal(15, 3, shift=0.5), normal(20, 3, seed=1), 3

    def radius(points, i):
        return sorted((points[i] - points[j]).norm().item() for j in range(len(points)) if j != i)[k - 1] + 1e-6

    inside = torch.tensor([[(s - p).norm().item() <= radius(photographs, i) for i, p in enumerate(photographs)]
                           for s in samples])  # fmt: skip
    assert d.precision(samples, photographs, k).tolist() == inside.any(1).tolist()
    assert d.density(samples, photographs, k).tolist() == pytest.approx((inside.sum(1) / k).tolist())
    assert d.coverage(samples, photographs, k).tolist() == inside.any(0).tolist()


def test_equal_sets_are_covered_and_far_ones_are_not():
    first, second = normal(400, 4), normal(400, 4, seed=1)
    assert d.density(first, second).mean() == pytest.approx(1, abs=0.15)
    assert d.coverage(first, second).float().mean() > 0.9
    assert d.precision(first + 100, second).sum() == d.coverage(first + 100, second).sum() == 0


def test_copies_are_noticed():
    training, held_out, fresh = normal(500), normal(200, seed=1), normal(200, seed=2)
    assert d.copied(fresh, held_out, training).float().mean() < 0.05
    assert d.copied(training[:50], held_out, training).all()
    assert d.nearest_distance(training[:5] * 3, training).tolist() == pytest.approx([0.0] * 5, abs=1e-9)


def test_diversity_is_the_mean_over_pairs():
    features = normal(12).unflatten(0, (3, 4))
    cosine = torch.nn.functional.cosine_similarity
    pairs = [
        1 - cosine(one[i], one[j], dim=0).item() for one in features for i, j in itertools.combinations(range(4), 2)
    ]
    assert d.diversity(features).value == pytest.approx(sum(pairs) / len(pairs), rel=1e-5)
    assert d.diversity(features[:, :1].expand(-1, 4, -1)).value == pytest.approx(0, abs=1e-9)
