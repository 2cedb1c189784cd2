"""Scores by category, after GenEval (Ghosh et al., 2023): a picture is right if it shows all that its prompt names.

More than the named objects is wrong too: the captions of the set name every object.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from fluxflow.data.shapes.captions import describe
from fluxflow.data.shapes.maker import draw_size, lay_out, lay_out_related
from fluxflow.data.shapes.scene import (
    MOST_OBJECTS,
    PLACES,
    SHAPES,
    Group,
    Scene,
    SceneObject,
    combinations,
    place,
    relation,
)
from fluxflow.errors import ConfigError
from fluxflow.metrics.shapes.detection import Detection, detect


@dataclass(frozen=True)
class Category:
    """A kind of prompt.

    Args:
        named: what prompts name beside shapes and numbers, of ATTRIBUTES.
        scene: makes the n-th scene, by chance.
    """

    named: frozenset[str]
    scene: Callable[[random.Random, int], Scene]


@dataclass(frozen=True)
class EvaluationScene:
    """A prompt with its truth.

    Args:
        category: one of CATEGORIES.
        prompt: the text to sample from.
        scene: a scene that fits it, one of many.
    """

    category: str
    prompt: str
    scene: Scene


@dataclass(frozen=True)
class CategoryScore:
    """Which pictures of a category are right: bool [n]."""

    correct: Tensor

    @property
    def share(self) -> float:
        return self.correct.float().mean().item()


def evaluation_scenes(category: str, count: int, seed: int) -> list[EvaluationScene]:
    """Prompts of a category with their scenes; shapes, places and numbers are equally frequent in it.

    Args:
        category: one of CATEGORIES.
        count: how many.
        seed: what they are drawn from.

    Raises:
        ConfigError: for another category.
    """
    if category not in CATEGORIES:
        raise ConfigError(f"There is no category {category!r} of scenes: it can be {', '.join(CATEGORIES)}.")
    rng = random.Random(f"evaluation/{category}/{seed}")
    kind = CATEGORIES[category]
    scenes = [kind.scene(rng, number) for number in range(count)]
    return [EvaluationScene(category, describe(scene, kind.named), scene) for scene in scenes]


def score(images: Tensor, scenes: Sequence[EvaluationScene]) -> dict[str, CategoryScore]:
    """Which images show what their prompts say, by category, in the order given.

    Args:
        images: [N, 3, H, W] in [-1, 1], square.
        scenes: the prompt of each image with its truth, N; of one or several categories.
    """
    correct: dict[str, list[bool]] = {}
    for found, wanted in zip(detect(images), scenes, strict=True):
        correct.setdefault(wanted.category, []).append(is_right(found, wanted))
    return {category: CategoryScore(torch.tensor(flags)) for category, flags in correct.items()}


def is_right(found: Sequence[Detection | SceneObject], wanted: EvaluationScene) -> bool:
    """Whether these objects, and no others, are what a prompt asks for."""
    named, scene = CATEGORIES[wanted.category].named, wanted.scene

    def look(thing: Detection | SceneObject) -> tuple[str, str]:
        return thing.shape or "", (thing.color or "") if "color" in named else "any"

    found, asked = sorted(found, key=look), sorted(scene.objects, key=look)
    if list(map(look, found)) != list(map(look, asked)):
        return False
    if "place" in named:
        return place(found[0].x, found[0].y) == scene.place()
    if "relation" in named:
        return _relation(found) == _relation(asked)
    return True


def _relation(things: Sequence[Detection | SceneObject]) -> str:
    a, b = things
    return relation((a.x, a.y), (b.x, b.y))


def _single(rng: random.Random, number: int, held_out: bool = False, where: str | None = None) -> Scene:
    shape = SHAPES[number % len(SHAPES)]
    looks = [look for look in combinations(held_out) if look[0] == shape]
    return lay_out(rng, [Group(1, *rng.choice(looks), draw_size(rng, 1))], where or rng.choice(PLACES))


def _unseen(rng: random.Random, number: int) -> Scene:
    return _single(rng, number, held_out=True)


def _placed(rng: random.Random, number: int) -> Scene:
    return _single(rng, rng.randrange(len(SHAPES)), where=PLACES[number % len(PLACES)])


def _several(rng: random.Random, number: int) -> Scene:
    count = 2 + number % (MOST_OBJECTS - 1)
    return lay_out(rng, [Group(count, *rng.choice(combinations(held_out=False)), draw_size(rng, count))])


def _pair(rng: random.Random, number: int) -> Scene:
    looks = [rng.choice(combinations(held_out=False))]
    others = [(shape, color) for shape, color in combinations(held_out=False) if {shape, color}.isdisjoint(looks[0])]
    groups = [Group(1, *look, draw_size(rng, 2)) for look in (looks[0], rng.choice(others))]
    return lay_out_related(rng, groups)


CATEGORIES = {
    "single_object": Category(frozenset(), _single),
    "color": Category(frozenset({"color"}), _single),
    "count": Category(frozenset(), _several),
    "position": Category(frozenset({"place"}), _placed),
    "attribute_binding": Category(frozenset({"color"}), _pair),
    "relation": Category(frozenset({"relation"}), _pair),
    "unseen_combinations": Category(frozenset({"color"}), _unseen),
}
