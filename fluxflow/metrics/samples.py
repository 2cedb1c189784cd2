"""How good the samples of a flow are: as images, as a set, and as what their captions ask for.

Every figure of the samples stands beside that of held-out photographs, compared with the same training photographs:
what samples would reach that are as good as photographs.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from rich.progress import track
from torch import Tensor

from fluxflow.metrics.distribution import copied, coverage, density, diversity, nearest_distance, precision
from fluxflow.metrics.features import Clip, Features
from fluxflow.metrics.garments import WORDS, GarmentJudge, words
from fluxflow.metrics.image import blurred
from fluxflow.metrics.measure import Evaluation
from fluxflow.metrics.reconstruction import add_distances
from fluxflow.metrics.shapes.scoring import CATEGORIES, evaluation_scenes, score

BATCH = 16  # samples at a time
BLURS = (1 / 64, 1 / 24)  # σ of the blurred copies, of the side of an image
FEWEST = 20  # images in a set whose neighbourhoods say something

Draw = Callable[[list[str]], Tensor]
"""Captions → an image each, [B, 3, H, W] in [-1, 1]; every caption with noise of its own."""


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


def drawing(pipeline: Any, size: tuple[int, int], steps: int, guidance: float, progress: bool = False) -> Draw:
    """What draws captions with a FluxFlowPipeline; the n-th one always with the noise of seed n.

    Args:
        pipeline: its progress bar is switched off.
        size: height and width in pixels.
        steps, guidance: of the sampler.
        progress: whether to show a bar over all samples.
    """
    pipeline.set_progress_bar_config(disable=True)
    options = {"height": size[0], "width": size[1], "num_inference_steps": steps, "guidance_scale": guidance}

    def draw(captions: list[str]) -> Tensor:
        drawn = []
        starts = range(0, len(captions), BATCH)
        for start in track(starts, description="samples", transient=True, disable=not progress):
            some = captions[start : start + BATCH]
            generators = [torch.Generator().manual_seed(start + index) for index in range(len(some))]
            drawn.append(pipeline(some, generator=generators, output_type="pt", **options).images)
        return torch.cat(drawn).cpu() * 2 - 1

    return draw


def evaluate_samples(
    draw: Draw,
    held_out: Photographs,
    training: Photographs,
    features: Features,
    prompts: int,
    each: int,
) -> tuple[Evaluation, Tensor]:
    """Draw the captions of held-out photographs, and compare with these and with training photographs.

    Args:
        draw: as of `drawing`.
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
    _add_diversity(result, found.unflatten(0, (len(captions), each)), features.label)
    _add_clip_score(result, "samples", features, found, asked)
    _add_clip_score(result, "photographs", features, held_out.features, held_out.captions)
    options: dict[str, Any] = {"group": "samples", "better": ""}
    result.add(
        "nearest", "distance to the nearest training image", nearest_distance(found, training.features), **options
    )
    copies = copied(found, held_out.features, training.features)
    result.add("copies", "nearer to training than 99 % of photographs", copies, group="samples", better="lower")
    if sum(words(caption).keys() >= {"category", "background"} for caption in asked) > 0.9 * len(asked):
        judge = GarmentJudge(*_with_blurred_copies(training, features))
        _add_words(result, "samples", judge.right(samples.cpu(), found, asked))
        _add_words(result, "photographs", judge.right(held_out.images, held_out.features, held_out.captions))
    return result, samples.unflatten(0, (len(captions), each))


def compare_samples(draw: Draw, held_out: Photographs, features: Features, each: int) -> Evaluation:
    """Draw the captions of held-out photographs, and compare with these alone: what a look during training needs.

    Args:
        draw: as of `drawing`.
        held_out: the photographs.
        features: as of them.
        each: samples of each caption.

    Returns:
        The KID and its kin, the diversity, and the CLIP score.
    """
    asked = [caption for caption in held_out.captions for _ in range(each)]
    found = features(draw(asked)).cpu()
    result = Evaluation()
    add_distances(result, "samples", found, held_out.features, features.label)
    _add_diversity(result, found.unflatten(0, (len(held_out), each)), features.label)
    _add_clip_score(result, "samples", features, found, asked)
    return result


def evaluate_shapes(draw: Draw, prompts: int) -> Evaluation:
    """Whether samples show what prompts of `data=shapes` say, in each category; real pictures always do.

    Args:
        draw: as of `drawing`.
        prompts: in each category.
    """
    result = Evaluation()
    for category in CATEGORIES:
        scenes = evaluation_scenes(category, prompts, seed=0)
        correct = score(draw([scene.prompt for scene in scenes]), scenes)[category].correct
        result.add(category, category.replace("_", " "), correct, group="captions", better="higher")
    return result


def _with_blurred_copies(photographs: Photographs, features: Features) -> tuple[Tensor, Tensor, list[str]]:
    """Images, features and captions, each image sharp and twice blurred: a judge that saw sharp ones alone finds one
    and the same garment in all that is blurred.
    """
    sharp = photographs.images / 127.5 - 1
    images = [sharp, *(blurred(sharp, share * sharp.shape[-1]) for share in BLURS)]
    found = [photographs.features, *(features(one).cpu() for one in images[1:])]
    return torch.cat(images), torch.cat(found), photographs.captions * len(images)


def _add_diversity(result: Evaluation, found: Tensor, label: str) -> None:
    """Add how far the samples of a caption are apart, from features [captions, each, F]."""
    if found.shape[1] > 1:
        title = f"diversity within a caption ({label})"
        result.add("diversity", title, diversity(found), len(found), group="samples", better="higher")


def _add_clip_score(result: Evaluation, group: str, features: Features, found: Tensor, captions: list[str]) -> None:
    if isinstance(features, Clip):
        result.add("clip_score", "CLIP score", features.scores(found, captions), group=group, better="higher")


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
