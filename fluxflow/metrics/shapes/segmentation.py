"""From pixels to the regions in which an object lies, and how opaque it is there.

A pixel p that an object of colour c covers by the share a shows p = b + a·(c − b), with b the background behind it. So
for a given colour the opacity a is the projection of p − b on c − b, and what is left of p − b tells how well c fits.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.data.shapes.scene import COLORS

LEAST_AREA = 0.01  # of the picture; the smallest object of the set has 0.024
FITS = 4  # of the background, each without the pixels that the last one left far off
EDGE, AROUND = 0.5, 2  # the opacity at which an object ends; pixels beside that which still belong to it


@dataclass(frozen=True)
class Regions:
    """The N regions of a batch of images.

    Args:
        image: int64 [N], the image that each is in, ascending.
        opacity: [N, H, W], near 1 inside the object and 0 around it.
        color: int64 [N], the colour of COLORS that fits best.
        color_error: [N], by how much the object's mean colour differs from that, in the range [-1, 1] of the pixels.
    """

    image: Tensor
    opacity: Tensor
    color: Tensor
    color_error: Tensor


def segment(images: Tensor) -> Regions:
    """Find what stands out from the background.

    Args:
        images: float [B, 3, H, W] in [-1, 1].
    """
    ground = background(images)
    opacity, error = fits(images - ground, ground)
    nearest = error.argmin(1, keepdim=True)
    labels = connected(opacity.gather(1, nearest)[:, 0] > EDGE)
    image, own = _large_enough(labels)
    near = dilated(own, AROUND) & ~dilated((labels > 0)[image] & ~own, 1)
    color = torch.einsum("nchw,nhw->nc", error[image], near.float()).argmin(1)
    opacity = opacity[image, color] * near
    return Regions(image, opacity, color, _color_error(opacity, color, images[image], ground[image]))


def fits(difference: Tensor, ground: Tensor) -> tuple[Tensor, Tensor]:
    """What each colour of COLORS says about each pixel.

    Args:
        difference: p − b, [B, 3, H, W].
        ground: b, [B, 3, H, W].

    Returns:
        The opacity a of an object of each colour, and the squared error that it leaves with a in [0, 1]: [B, 8, H, W].
    """
    color = _palette()
    along = torch.einsum("bihw,ci->bchw", difference, color) - (difference * ground).sum(1, keepdim=True)
    length = color.square().sum(1).view(1, -1, 1, 1) - 2 * torch.einsum("bihw,ci->bchw", ground, color)
    length = (length + ground.square().sum(1, keepdim=True)).clamp(min=1e-3)  # a background of the colour itself
    opacity = along / length
    covering = opacity.clamp(0, 1)
    return opacity, difference.square().sum(1, keepdim=True) + covering * (covering * length - 2 * along)


def background(images: Tensor) -> Tensor:
    """The plane through the pixels of each image's border, robust to what touches it: [B, 3, H, W]."""
    height, width = images.shape[2:]
    rim = max(1, height // 32)
    border = torch.ones(height, width, dtype=torch.bool)
    border[rim:-rim, rim:-rim] = False
    y, x = (torch.linspace(-0.5, 0.5, side) for side in (height, width))
    planes = torch.stack([torch.ones(height, width), x.expand(height, width), y[:, None].expand(height, width)], -1)
    known, values = planes[border], images.permute(0, 2, 3, 1)[:, border]
    weights = torch.ones(len(images), len(known), 1)
    slopes = torch.zeros(len(images), 3, 3)
    for _ in range(FITS):
        weighted = known * weights
        slopes = torch.linalg.solve(weighted.mT @ known, weighted.mT @ values)
        error = (values - known @ slopes).norm(dim=-1, keepdim=True)
        usual = error.median(dim=1, keepdim=True).values.clamp(min=0.01)
        weights = torch.where(error < 3 * usual, 1.0, 1e-6)
    return (planes @ slopes[:, None]).permute(0, 3, 1, 2)


def connected(mask: Tensor) -> Tensor:
    """Labels [B, H, W] of the pixels of a mask, the same for all that are connected, diagonals included; 0 outside."""
    inside = mask.float().unsqueeze(1)
    labels = torch.arange(1, inside[0].numel() + 1, dtype=torch.float32).view_as(inside[0]) * inside
    while True:
        spread = F.max_pool2d(labels, 3, 1, 1) * inside
        if torch.equal(spread, labels):
            return labels[:, 0].long()
        labels = spread


def dilated(mask: Tensor, pixels: int) -> Tensor:
    """A mask [N, H, W] that reaches so many pixels further."""
    return F.max_pool2d(mask.float().unsqueeze(1), 2 * pixels + 1, 1, pixels)[:, 0] > 0


def _palette() -> Tensor:
    """The colours as [8, 3] in [-1, 1]."""
    return torch.tensor(list(COLORS.values())) / 127.5 - 1


def _large_enough(labels: Tensor) -> tuple[Tensor, Tensor]:
    """The number of the image [N] and the mask [N, H, W] of each connected region that is no speck."""
    least = LEAST_AREA * labels[0].numel()
    found = []
    for image, own in enumerate(labels):
        numbers, areas = own[own > 0].unique(return_counts=True)
        found += [(image, number) for number in numbers[areas >= least].tolist()]
    image = torch.tensor([image for image, _ in found], dtype=torch.long)
    return image, labels[image] == torch.tensor([number for _, number in found]).view(-1, 1, 1)


def _color_error(opacity: Tensor, color: Tensor, image: Tensor, ground: Tensor) -> Tensor:
    """The mean of what its colour leaves of each object, mostly where it is opaque: [N]."""
    share = opacity.clamp(0, 1).unsqueeze(1)
    left = image - ground - share * (_palette()[color][:, :, None, None] - ground)
    weights = share.square()
    return ((left * weights).sum((2, 3)) / weights.sum((2, 3))).norm(dim=1)
