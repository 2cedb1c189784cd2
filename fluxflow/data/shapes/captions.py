"""From a scene to its captions, each of which is true, and the prompts of the same words."""

import random
from collections.abc import Collection, Sequence

from fluxflow.data.shapes.scene import Group, Scene

NUMBERS = ("no", "one", "two", "three", "four")
FRAMES = ("{}", "a picture of {}", "an image of {}", "a drawing of {}", "a picture that shows {}")
SIZE_WORDS = {"small": ("small", "little"), "large": ("large", "big")}
PLACE_WORDS = {
    "top left": ("in the top left corner", "in the upper left corner"),
    "top": ("at the top",),
    "top right": ("in the top right corner", "in the upper right corner"),
    "left": ("on the left", "on the left side"),
    "center": ("in the center", "in the middle"),
    "right": ("on the right", "on the right side"),
    "bottom left": ("in the bottom left corner", "in the lower left corner"),
    "bottom": ("at the bottom",),
    "bottom right": ("in the bottom right corner", "in the lower right corner"),
}
RELATION_WORDS = {
    "left": ("left of", "to the left of"),
    "right": ("right of", "to the right of"),
    "above": ("above",),
    "below": ("below",),
}
OPPOSITES = {"left": "right", "right": "left", "above": "below", "below": "above"}


def captions(scene: Scene, attributes: Collection[str], rng: random.Random) -> tuple[str, ...]:
    """Two to four different captions of a scene.

    The first two name all that `attributes` allow, the first in the plainest words. The others name a random part.

    Args:
        scene: what is shown.
        attributes: what may be named beside shapes and numbers, of ATTRIBUTES.
        rng: what all choices are drawn from.
    """
    named = sorted(attributes)
    fewer = [name for name in named if rng.random() < 0.5]
    texts = [describe(scene, named), describe(scene, named, rng), describe(scene, fewer), describe(scene, fewer, rng)]
    return tuple(dict.fromkeys(texts))


def describe(scene: Scene, named: Collection[str], rng: random.Random | None = None) -> str:
    """One caption: every object, with its shape and number.

    A colour is also named where two groups would else sound the same.

    Args:
        scene: what is shown.
        named: what is said beside that, of ATTRIBUTES, where the scene has it.
        rng: what words and order are drawn from; None: the plainest.
    """
    groups = scene.groups()
    if len({group.shape for group in groups}) < len(groups):
        named = {*named, "color"}
    relation = scene.relation() if "relation" in named else None
    if rng is not None and rng.random() < 0.5:
        groups, relation = groups[::-1], OPPOSITES.get(relation or "")
    phrases = [_phrase(group, named, rng) for group in groups]
    if relation is not None:
        text = f" {_pick(RELATION_WORDS[relation], rng)} ".join(phrases)
    else:
        text = " and ".join([", ".join(phrases[:-1]), phrases[-1]]) if len(phrases) > 1 else phrases[0]
    place = scene.place() if "place" in named else None
    if place is not None:
        text = f"{text} {_pick(PLACE_WORDS[place], rng)}"
    return _pick(FRAMES, rng).format(text)


def _phrase(group: Group, named: Collection[str], rng: random.Random | None) -> str:
    """ "a large red circle", "two stars"."""
    noun = group.shape if group.count == 1 else f"{group.shape}{'es' if group.shape.endswith('s') else 's'}"
    words = [noun]
    if "color" in named:
        words.insert(0, group.color)
    if "size" in named and group.size in SIZE_WORDS:
        words.insert(0, _pick(SIZE_WORDS[group.size], rng))
    article = "an" if words[0][0] in "aeiou" else "a"
    return " ".join([article if group.count == 1 else NUMBERS[group.count], *words])


def _pick(choices: Sequence[str], rng: random.Random | None) -> str:
    return choices[0] if rng is None else rng.choice(choices)
