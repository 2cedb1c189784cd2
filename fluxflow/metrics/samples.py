"""How good the samples of a flow are: as images, as a set, and as what their captions ask for.

Every figure of the samples stands beside that of held-out photographs, compared with the same training photographs:
what samples would reach that are as good as photographs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from fluxflow.metrics.distribution import copied, coverage, density, diversity, nearest_distance, precision
from fluxflow.metrics.features import Features
from fluxflow.metrics.garments import WORDS, GarmentJudge, words
from fluxflow.metrics.measure import Evaluation
from fluxflow.metrics.reconstruction import add_distances
from fluxflow.metrics.shapes.scoring import CATEGORIES, evaluation_scenes, score

FEWEST = 20  # images in a set whose neighbourhoods say something


@dataclass(frozen=True)
class Photographs:
    """Images with their captions and features.

    Args:
        images: uint8 [N, 3, H, W], all of one size.
        captions: theirs.
        features: [N, F].
    """

    images: Tensor
    captions: list[str]
    features: Tensor

    def __len__(self) -> int:
        return len(self.captions)


def evaluate_samples(
    draw: Callable[[list[str]], Tensor],
    held_out: Photographs,
    training: Photographs,
    features: Features,
    prompts: int,
    each: int,
) -> tuple[Evaluation, Tensor]:
    """Draw the captions of held-out photographs, and compare with these and with training photographs.

    Args:
        draw: captions → an image each, [B, 3, H, W] in [-1, 1]; every caption with noise of its own.
        held_out: photographs whose captions are drawn, the first `prompts` of them.
        training: photographs that training has seen.
        features: as of both.
        prompts: captions.
        each: samples of each caption.

    Returns:
        The measures, and the samples [prompts, each, 3, H, W].
    """
    captions = held_out.captions[:prompts]
    asked = [caption for caption in captions for _ in range(each)]
    samples = draw(asked)
    found = features(samples).cpu()
    result = Evaluation()
    _add_set(result, "samples", found, training.features, features.label)
    _add_set(result, "photographs", held_out.features, training.features, features.label)
    if each > 1:
        title = f"diversity within a caption ({features.label})"
        by_caption = found.unflatten(0, (len(captions), each))
        result.add("diversity", title, diversity(by_caption), len(captions), group="samples", better="higher")
    options: dict[str, Any] = {"group": "samples", "better": ""}
    result.add(
        "nearest", "distance to the nearest training image", nearest_distance(found, training.features), **options
    )
    copies = copied(found, held_out.features, training.features)
    result.add("copies", "nearer to training than 99 % of photographs", copies, group="samples", better="lower")
    if sum(words(caption).keys() >= {"category", "background"} for caption in asked) > 0.9 * len(asked):
        judge = GarmentJudge(training.images, training.features, training.captions)
        _add_words(result, "samples", judge.right(samples.cpu(), found, asked))
        _add_words(result, "photographs", judge.right(held_out.images, held_out.features, held_out.captions))
    return result, samples.unflatten(0, (len(captions), each))


def evaluate_shapes(draw: Callable[[list[str]], Tensor], prompts: int) -> Evaluation:
    """Whether samples show what prompts of `data=shapes` say, in each category; real pictures always do.

    Args:
        draw: as of `evaluate_samples`.
        prompts: in each category.
    """
    result = Evaluation()
    for category in CATEGORIES:
        scenes = evaluation_scenes(category, prompts, seed=0)
        correct = score(draw([scene.prompt for scene in scenes]), scenes)[category].correct
        result.add(category, category.replace("_", " "), correct, group="captions", better="higher")
    return result


def _add_set(result: Evaluation, group: str, found: Tensor, training: Tensor, label: str) -> None:
    add_distances(result, group, found, training, label)
    if min(len(found), len(training)) < FEWEST:
        return
    options: dict[str, Any] = {"group": group, "better": "higher"}
    result.add("precision", f"precision ({label})", precision(found, training), **options)
    result.add("recall", f"recall ({label})", precision(training, found), **options)
    result.add("density", f"density ({label})", density(found, training), **options)
    result.add("coverage", f"coverage ({label})", coverage(found, training), **options)


def _add_words(result: Evaluation, group: str, right: dict[str, Tensor]) -> None:
    for role in WORDS:
        if len(right[role]):
            result.add(role, f"{role} as the caption says", right[role], group=group, better="higher")
