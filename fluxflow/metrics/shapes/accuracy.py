"""How often the detector is right about pictures whose truth is known, and what it takes for what."""

import math
from collections import Counter
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from fluxflow.data.shapes.render import render
from fluxflow.data.shapes.scene import COLORS, SHAPES, Scene, SceneObject, place, relation
from fluxflow.metrics.image import blurred
from fluxflow.metrics.shapes.detection import Detection, detect

Pair = tuple[SceneObject, Detection | None]
MEASURES = ("found", "shape", "color", "size", "count", "place", "relation")
MISSED, NEITHER = "missed", "none"
PASSED = 2 / 3  # of the frequencies, which leaves ringing at edges


def images_of(scenes: Sequence[Scene], side: int) -> Tensor:
    """The pictures of scenes, [N, 3, side, side] in [-1, 1]."""
    pixels = torch.from_numpy(np.stack([render(scene, side) for scene in scenes]))
    return pixels.permute(0, 3, 1, 2) / 127.5 - 1


def noisy(images: Tensor, sigma: float) -> Tensor:
    """Images in [-1, 1] with Gaussian noise of this standard deviation, always the same."""
    return images + sigma * torch.randn(images.shape, generator=torch.Generator().manual_seed(0))


def ringing(images: Tensor) -> Tensor:
    """Images without their highest frequencies, cut off sharply."""
    spectrum = torch.fft.rfft2(images)
    rows, columns = (torch.fft.fftfreq(side).abs() for side in images.shape[2:])
    kept = (rows[:, None] <= PASSED / 2) & (columns[: spectrum.shape[-1]] <= PASSED / 2)
    return torch.fft.irfft2(spectrum * kept, images.shape[2:])


DAMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "as drawn": lambda images: images,
    "blur 0.5 px": lambda images: blurred(images, 0.5),
    "blur 1 px": lambda images: blurred(images, 1.0),
    "noise 0.05": lambda images: noisy(images, 0.05),
    "noise 0.1": lambda images: noisy(images, 0.1),
    "ringing": ringing,
    "blur 1.5 px, noise 0.1": lambda images: noisy(blurred(images, 1.5), 0.1),
}
SHOWN_CONFUSION = ("as drawn", "blur 1.5 px, noise 0.1")


def paired(scene: Scene, found: Sequence[Detection]) -> list[Pair]:
    """Each object of a scene with what was found nearest to its centre, within its reach."""

    def distance(thing: SceneObject, detection: Detection) -> float:
        return math.hypot(thing.x - detection.x, thing.y - detection.y)

    nearest = [(thing, min(found, key=lambda one: distance(thing, one), default=None)) for thing in scene.objects]
    return [(a, b if b is not None and distance(a, b) < a.reach else None) for a, b in nearest]


def shares(scenes: Sequence[Scene], found: Sequence[Sequence[Detection]]) -> dict[str, float]:
    """Of the objects, how many were found, and with the right shape, colour and size; of the pictures, how many have
    the right number of objects, place (of a single object) and relation (of two different ones): by MEASURES."""
    right: dict[str, list[bool]] = {name: [] for name in MEASURES}
    for scene, objects in zip(scenes, found, strict=True):
        pairs = paired(scene, objects)
        right["count"].append(len(objects) == len(pairs))
        for thing, detection in pairs:
            right["found"].append(detection is not None)
            for name in ("shape", "color", "size"):
                right[name].append(detection is not None and getattr(detection, name) == getattr(thing, name))
        seen = [(detection.x, detection.y) for _, detection in pairs if detection is not None]
        if scene.place() is not None:
            right["place"].append(len(seen) == 1 and place(*seen[0]) == scene.place())
        if scene.relation() is not None:
            right["relation"].append(len(seen) == 2 and relation(*seen) == scene.relation())
    return {name: sum(flags) / len(flags) if flags else math.nan for name, flags in right.items()}


def confusion(pairs: Sequence[Pair], attribute: str) -> Counter[tuple[str, str]]:
    """How often each (truth, finding) of "shape" or "color" occurs; the finding may be MISSED or NEITHER."""
    found = ((a, MISSED if b is None else getattr(b, attribute) or NEITHER) for a, b in pairs)
    return Counter((getattr(a, attribute), name) for a, name in found)


def report(scenes: Sequence[Scene], sides: Sequence[int]) -> str:
    """The tables of docs/shapes.md, in Markdown.

    Args:
        scenes: what is drawn.
        sides: sides of the pictures in pixels.
    """
    lines, tables = [_row(["side", "pictures", *MEASURES]), _row(["---"] * (2 + len(MEASURES)))], []
    for side in sides:
        images = images_of(scenes, side)
        for name, damage in DAMAGES.items():
            found = detect(damage(images))
            values = shares(scenes, found)
            lines.append(_row([f"{side} px", name, *(f"{100 * values[measure]:.2f}" for measure in MEASURES)]))
            if name in SHOWN_CONFUSION:
                pairs = [pair for scene, objects in zip(scenes, found) for pair in paired(scene, objects)]
                title = f"{side} px, {name}"
                tables += [_table(pairs, "shape", SHAPES, title), _table(pairs, "color", tuple(COLORS), title)]
    return "\n\n".join(["\n".join(lines), *tables])


def _table(pairs: Sequence[Pair], attribute: str, names: Sequence[str], title: str) -> str:
    counts = confusion(pairs, attribute)
    columns = [*names, NEITHER, MISSED]
    head = [_row([f"{attribute}, {title}", *columns]), _row(["---"] * (1 + len(columns)))]
    body = [_row([f"**{name}**", *(str(counts[name, column] or "") for column in columns)]) for name in names]
    return "\n".join([*head, *body])


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"
