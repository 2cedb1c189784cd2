"""Whether samples of the demo's captions show the garment and the colours that the caption names.

The captions are made from a template (fluxflow/data/demo/README.md). Linear classifiers learn from training photographs
to read its three words off an image: the category from features, the colours from histograms. Held-out photographs tell
how often they are right: the colours in the captions are themselves wrong about one time in six.
"""

import itertools
import re
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from fluxflow.metrics.features import resized

COLOURS = (
    "light blue", "navy blue", "black", "white", "grey", "red", "pink", "orange", "yellow", "green", "blue", "purple",
    "brown", "beige", "teal", "mint", "multicoloured",
)  # fmt: skip
TEMPLATE = re.compile(
    rf"a photo of (?:a |an )?(?:children's )?(?:pair of )?(?:children's )?(?:(?P<colour>{'|'.join(COLOURS)}) )?"
    rf"(?P<category>.+?) on an? (?P<background>{'|'.join(COLOURS)}) background"
)
WORDS = ("category", "colour", "background")
SIDE = 32  # pixels of the images whose colours are counted
RINGS = (0, 3, 9, 16)  # pixels from the border of such an image: where one part of it ends and the next begins
LEVELS = 4  # of red, green and blue each
RIDGE = 1e-3  # weight decay of the classifiers, on standardised inputs


def words(caption: str) -> dict[str, str]:
    """The words of a caption by their role, those that it has of `WORDS`; none where it is of another template."""
    found = TEMPLATE.fullmatch(caption)
    return {role: word for role, word in found.groupdict().items() if word} if found else {}


@dataclass(frozen=True)
class Classifier:
    """A linear classifier of standardised vectors.

    Args:
        classes: their names.
        mean, std: of the vectors that it learned from, [F].
        weight, bias: [classes, F] and [classes].
    """

    classes: list[str]
    mean: Tensor
    std: Tensor
    weight: Tensor
    bias: Tensor

    def __call__(self, vectors: Tensor) -> list[str]:
        """The likeliest class of each vector, [N, F]."""
        scores = F.linear((vectors - self.mean) / self.std, self.weight, self.bias)
        return [self.classes[index] for index in scores.argmax(1).tolist()]


def train_classifier(vectors: Tensor, names: list[str]) -> Classifier:
    """Multinomial logistic regression with weight decay, by L-BFGS from zero: the same result each time.

    Args:
        vectors: [N, F].
        names: the class of each.
    """
    classes = sorted(set(names))
    target = torch.tensor([classes.index(name) for name in names])
    mean, std = vectors.mean(0), vectors.std(0).clamp(min=1e-6)
    inputs = (vectors - mean) / std
    weight = torch.zeros(len(classes), vectors.shape[1], requires_grad=True)
    bias = torch.zeros(len(classes), requires_grad=True)
    optimizer = torch.optim.LBFGS([weight, bias], max_iter=100, line_search_fn="strong_wolfe")

    def closure() -> Tensor:
        optimizer.zero_grad()
        loss = F.cross_entropy(F.linear(inputs, weight, bias), target) + RIDGE * weight.square().sum()
        loss.backward()
        return loss

    optimizer.step(closure)
    return Classifier(classes, mean, std, weight.detach(), bias.detach())


class GarmentJudge:
    """Reads category and colours off images.

    Args:
        images: training photographs, [N, 3, H, W] in [-1, 1] or uint8.
        features: of them, [N, F].
        captions: theirs.
    """

    def __init__(self, images: Tensor, features: Tensor, captions: list[str]) -> None:
        known = [words(caption) for caption in captions]
        inputs = _inputs(images, features)
        self.classifiers: dict[str, Classifier] = {}
        for role in WORDS:
            having = [index for index, found in enumerate(known) if role in found]
            self.classifiers[role] = train_classifier(inputs[role][having], [known[index][role] for index in having])

    def right(self, images: Tensor, features: Tensor, captions: list[str]) -> dict[str, Tensor]:
        """Whether images show what their captions say, by role: [n] bool each, of those whose caption has that word."""
        found, inputs, result = [words(caption) for caption in captions], _inputs(images, features), {}
        for role, classifier in self.classifiers.items():
            said = [(index, one[role]) for index, one in enumerate(found) if role in one]
            seen = classifier(inputs[role][[index for index, _ in said]]) if said else []
            result[role] = torch.tensor([one == word for one, (_, word) in zip(seen, said)], dtype=torch.bool)
        return result


def _inputs(images: Tensor, features: Tensor) -> dict[str, Tensor]:
    """What each classifier is given."""
    histograms = colour_histograms(images)
    return {"category": features, "colour": histograms, "background": histograms}


def colour_histograms(images: Tensor) -> Tensor:
    """Square roots of the shares of colours at the border of each image, around its middle and in it, [N, 3 · 64].

    A pixel counts for the eight colours around its own in proportion to how near they are, so that a histogram changes
    smoothly with the image.
    """
    colours = (resized(images, SIDE).permute(0, 2, 3, 1) + 1) / 2 * (LEVELS - 1)
    lower = colours.floor().clamp(max=LEVELS - 2).long()
    above = colours - lower
    counts = colours.new_zeros(*colours.shape[:3], LEVELS**3)
    for corner in itertools.product((0, 1), repeat=3):
        offset = torch.tensor(corner)
        index = ((lower + offset) * torch.tensor([LEVELS**2, LEVELS, 1])).sum(-1, keepdim=True)
        share = torch.where(offset.bool(), above, 1 - above).prod(-1, keepdim=True)
        counts.scatter_add_(3, index, share)
    rows = torch.minimum(torch.arange(SIDE), SIDE - 1 - torch.arange(SIDE))
    depth = torch.minimum(rows[:, None], rows[None, :])
    rings = [(low <= depth) & (depth < high) for low, high in itertools.pairwise(RINGS)]
    return torch.cat([counts[:, ring].mean(1).sqrt() for ring in rings], dim=1)
