"""From images of shapes to the objects in them: shape, colour, centre and size of each."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.data.shapes.render import coverage
from fluxflow.data.shapes.scene import COLORS, SHAPES, SIZE_BORDER, SceneObject
from fluxflow.metrics.image import blurred
from fluxflow.metrics.shapes.segmentation import Regions, segment

GRID, WINDOW = (
    16,
    1.9,
)  # cells and half side of the square in which shapes are compared; in radii of a disk of their area
ANGLES, REACHES, BLURS = (-10, -5, 0, 5, 10), (0.135, 0.15, 0.175, 0.2, 0.215), (0.0, 0.7, 1.2)  # of the templates
SHAPE_LIMIT = 2.2  # largest distance to a template; pictures of the set have up to 1.5, with noise of 0.1 up to 1.8
COLOR_LIMIT = 0.35  # largest colour error; pictures of the set have up to 0.18, half the way to another colour is 0.4
PIXELS = 2**18  # that are looked at together, which bounds the memory


@dataclass(frozen=True)
class Detection:
    """An object that was found.

    Args:
        shape: one of SHAPES; None: none of them.
        color: one of COLORS; None: none of them.
        x, y: the centre of its area, in shares of the picture's side.
        reach: as of a SceneObject, of the same area.
    """

    shape: str | None
    color: str | None
    x: float
    y: float
    reach: float

    @property
    def size(self) -> str:
        return "small" if self.reach < SIZE_BORDER else "large"


def detect(images: Tensor) -> list[list[Detection]]:
    """Find the objects of each image.

    Args:
        images: [B, 3, H, W] in [-1, 1], square, from 32 px.
    """
    at_once = max(1, PIXELS // images[0, 0].numel())
    return [found for part in images.detach().float().cpu().clamp(-1, 1).split(at_once) for found in _detect(part)]


def _detect(images: Tensor) -> list[list[Detection]]:
    found: list[list[Detection]] = [[] for _ in images]
    regions = segment(images)
    if len(regions.image):
        for image, detection in zip(regions.image.tolist(), _named(regions)):
            found[image].append(detection)
    return found


def _named(regions: Regions) -> list[Detection]:
    """Each region with the shape of the nearest template and the colour that fits best."""
    side = regions.opacity.shape[-1]
    crops, centres, radii = normalised(regions.opacity)
    known = templates(side)
    distances, nearest = torch.cdist(crops.flatten(1), known.crops).min(1)
    return [
        Detection(
            known.shapes[template] if distance <= SHAPE_LIMIT else None,
            list(COLORS)[color] if error <= COLOR_LIMIT else None,
            x,
            y,
            radius * known.reach_of_radius[template],
        )
        for template, distance, color, error, (x, y), radius in zip(
            nearest.tolist(), distances.tolist(), regions.color.tolist(), regions.color_error.tolist(),
            centres.tolist(), radii.tolist(),
        )
    ]  # fmt: skip


def normalised(opacity: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Bring objects to the same place and area.

    Args:
        opacity: [N, H, W].

    Returns:
        What lies around each, [N, GRID, GRID]; the centres (x, y) [N, 2] and the radii [N] of disks of the same area,
        in shares of the side.
    """
    side = opacity.shape[-1]
    area = opacity.sum((1, 2))
    along = (torch.arange(side) + 0.5) / side
    centres = torch.stack([(opacity.sum(over) * along).sum(1) / area for over in (1, 2)], 1)
    radii = (area.clamp(min=1) / math.pi).sqrt() / side
    cells = WINDOW * ((torch.arange(GRID) + 0.5) / GRID * 2 - 1)
    x, y = (centres[:, axis, None] + radii[:, None] * cells for axis in (0, 1))
    at = torch.stack([x[:, None, :].expand(-1, GRID, GRID), y[:, :, None].expand(-1, GRID, GRID)], -1)
    crops = F.grid_sample(opacity.clamp(0, 1.2).unsqueeze(1), 2 * at - 1, align_corners=False)
    return crops[:, 0], centres, radii


@dataclass(frozen=True)
class Templates:
    """Drawn objects, brought to the same place and area.

    Args:
        crops: [N, GRID²].
        shapes: that of each.
        reach_of_radius: the reach of each, as a multiple of the radius of a disk of its area.
    """

    crops: Tensor
    shapes: list[str]
    reach_of_radius: list[float]


@functools.cache
def templates(side: int) -> Templates:
    """Every shape, turned, of several sizes and more or less blurred, as pictures of this side show it."""
    things = [SceneObject(shape, "red", "small", 0.5 + 0.3 / side, 0.5 - 0.2 / side, reach, angle, (0, 0, 0))
              for shape in SHAPES for angle in ANGLES for reach in REACHES]  # fmt: skip
    drawn = torch.zeros(len(things), 1, side, side)
    for opacity, thing in zip(drawn, things):
        mask, (left, top) = coverage(thing, side)
        opacity[0, top : top + mask.height, left : left + mask.width] = torch.from_numpy(np.asarray(mask) / 255.0)
    crops, _, radii = zip(*(normalised(blurred(drawn, blur)[:, 0]) for blur in BLURS))
    ratios = torch.tensor([thing.reach for thing in things]) / torch.stack(radii)
    return Templates(
        torch.cat(crops).flatten(1), [thing.shape for thing in things] * len(BLURS), ratios.flatten().tolist()
    )
