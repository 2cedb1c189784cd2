"""How near a set of samples is to a set of photographs, from the features [N, F] of both.

None of these is a figure by itself: they depend on the features and on the number of images, so they are compared with
those of held-out photographs, and only at equal numbers.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from fluxflow.metrics.intervals import Interval, mean_interval, percentile_interval, resampling_weights

COVERAGE_NEIGHBOURS = 5  # for density and coverage (Naeem et al., 2020)
RECALL_NEIGHBOURS = 3  # for precision and recall (Kynkäänniemi et al., 2019)
MMD_RESAMPLES = 500


def polynomial_kernel(first: Tensor, second: Tensor) -> Tensor:
    """(x·y / F + 1)³ of all pairs, [N, M] in float64 (Bińkowski et al., 2018, section 4)."""
    return (first.double() @ second.double().T / first.shape[1] + 1) ** 3


def gaussian_kernel(first: Tensor, second: Tensor) -> Tensor:
    """exp(−‖x − y‖² / 2σ²) of all pairs, with σ = 10, [N, M] in float64 (Jayasumana et al., 2024, equation 4)."""
    return (-torch.cdist(first.double(), second.double()).square() / (2 * 10.0**2)).exp()


def kid(samples: Tensor, photographs: Tensor, paired: bool = False, seed: int = 0) -> Interval:
    """Kernel inception distance: the squared MMD of a cubic kernel (Bińkowski et al., 2018); see `squared_mmd`."""
    return squared_mmd(samples, photographs, polynomial_kernel, paired, seed)


def cmmd(samples: Tensor, photographs: Tensor, paired: bool = False, seed: int = 0) -> Interval:
    """1000 times the squared MMD of a Gaussian kernel, for CLIP's features at length 1 (Jayasumana et al., 2024)."""
    first, second = _directions(samples), _directions(photographs)
    return Interval(*(1000 * bound for bound in squared_mmd(first, second, gaussian_kernel, paired, seed)))


def squared_mmd(
    samples: Tensor,
    photographs: Tensor,
    kernel: Callable[[Tensor, Tensor], Tensor],
    paired: bool = False,
    seed: int = 0,
) -> Interval:
    """The squared maximum mean discrepancy, without bias: about 0 for equal sets (Gretton et al., 2012, equation 3).

    Its bootstrap resamples both sets. Pairs of copies of one image are left out as pairs of an image with itself are,
    so that the resampled estimates are as unbiased as the first.

    Args:
        samples, photographs: features, [N, F] and [M, F]; at least two each.
        kernel: of all pairs of two sets.
        paired: the i-th sample was made of the i-th photograph, as a reconstruction is. Such pairs are left out too:
            they are alike because they show the same thing.
    """
    within_samples = kernel(samples, samples).fill_diagonal_(0)
    within_photographs = kernel(photographs, photographs).fill_diagonal_(0)
    between = kernel(samples, photographs)
    if paired:
        between.fill_diagonal_(0)

    def estimate(a: Tensor, b: Tensor) -> Tensor:
        pairs = (_pairs(a, a), _pairs(b, b), a.sum(1) * b.sum(1) - ((a * b).sum(1) if paired else 0))
        sums = (_sum(a, within_samples, a), _sum(b, within_photographs, b), _sum(a, between, b))
        return sums[0] / pairs[0] + sums[1] / pairs[1] - 2 * sums[2] / pairs[2]

    once = [torch.ones(1, len(features), dtype=torch.float64) for features in (samples, photographs)]
    drawn = resampling_weights(len(samples), MMD_RESAMPLES, seed)
    other = drawn if paired else resampling_weights(len(photographs), MMD_RESAMPLES, seed + 1)
    return percentile_interval(float(estimate(*once)), estimate(drawn, other))


def _pairs(a: Tensor, b: Tensor) -> Tensor:
    """Pairs of different images in resampled sets, [R], from their weights [R, N]."""
    return a.sum(1) * b.sum(1) - (a * b).sum(1)


def _sum(a: Tensor, kernel: Tensor, b: Tensor) -> Tensor:
    return ((a @ kernel) * b).sum(1)


def frechet_distance(samples: Tensor, photographs: Tensor) -> float:
    """‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2·(Σ₁Σ₂)^½) (Heusel et al., 2017, equation 6); biased upwards for few images.

    Called FID only for the features of the Inception network of 2015.
    """
    first, second = samples.double(), photographs.double()
    covariances = [features.T.cov() for features in (first, second)]
    root = _symmetric_root(covariances[0])
    product = torch.linalg.eigvalsh(root @ covariances[1] @ root).clamp(min=0).sqrt().sum()
    shift = (first.mean(0) - second.mean(0)).square().sum()
    return float(shift + covariances[0].trace() + covariances[1].trace() - 2 * product)


def _symmetric_root(matrix: Tensor) -> Tensor:
    values, vectors = torch.linalg.eigh(matrix)
    return vectors * values.clamp(min=0).sqrt() @ vectors.T


def precision(samples: Tensor, photographs: Tensor, neighbours: int = RECALL_NEIGHBOURS) -> Tensor:
    """Whether each sample lies among the photographs: within the k-th neighbour's distance of one of them, [N] bool.

    With the arguments exchanged it is recall: which photographs lie among the samples (Kynkäänniemi et al., 2019).
    """
    return (torch.cdist(samples, photographs) <= _radii(photographs, neighbours)).any(1)


def density(samples: Tensor, photographs: Tensor, neighbours: int = COVERAGE_NEIGHBOURS) -> Tensor:
    """In how many neighbourhoods of photographs each sample lies, over k, [N]; 1 on average for equal sets."""
    return (torch.cdist(samples, photographs) <= _radii(photographs, neighbours)).double().sum(1) / neighbours


def coverage(samples: Tensor, photographs: Tensor, neighbours: int = COVERAGE_NEIGHBOURS) -> Tensor:
    """Whether a sample lies in the neighbourhood of each photograph, [M] bool (Naeem et al., 2020)."""
    return (torch.cdist(photographs, samples) <= _radii(photographs, neighbours)[:, None]).any(1)


def nearest_distance(samples: Tensor, photographs: Tensor) -> Tensor:
    """Cosine distance of each sample to the photograph that is most like it, [N] in [0, 2]."""
    return 1 - (_directions(samples) @ _directions(photographs).T).max(1).values


def copied(samples: Tensor, held_out: Tensor, training: Tensor, quantile: float = 0.01) -> Tensor:
    """Whether each sample is nearer to a training image than all but 1 % of the held-out photographs are, [N] bool.

    1 % of the samples of a model that copies nothing do so by chance.
    """
    threshold = torch.quantile(nearest_distance(held_out, training), quantile)
    return nearest_distance(samples, training) < threshold


def diversity(features: Tensor) -> Interval:
    """Mean cosine distance between two samples of one prompt, resampled over prompts.

    Args:
        features: [prompts, samples of each, F].
    """
    directions = _directions(features)
    similarity = directions @ directions.transpose(1, 2)
    count = features.shape[1]
    others = (similarity.sum(dim=(1, 2)) - similarity.diagonal(dim1=1, dim2=2).sum(1)) / (count * (count - 1))
    return mean_interval(1 - others)


def _directions(features: Tensor) -> Tensor:
    return torch.nn.functional.normalize(features.double(), dim=-1)


def _radii(features: Tensor, neighbours: int) -> Tensor:
    """Distance of each point to its k-th neighbour, itself left out, [N]."""
    return torch.cdist(features, features).kthvalue(neighbours + 1, dim=1).values
