"""Whether KID tells sets of images apart: python -m benchmarks.kid [--features NAME] [--other SOURCE …] [--save FILE]

The photographs of the demo are halved. The second half is compared with the first as it is, blurred, under noise and
recompressed, and so are the images of another source. Halves of one set should give about 0, and more the more is done.
"""

import argparse
import sys
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.pairs import machine
from fluxflow.commands.image_sets import DEMO, named_sets
from fluxflow.kernels.heap import keep_freed_memory
from fluxflow.metrics.distribution import kid
from fluxflow.metrics.features import Features, make_features
from fluxflow.metrics.image import blurred

COUNT = 1000  # images of a half
SIZE = (64, 64)
BLUR = (0.5, 1.0, 2.0)  # σ in pixels
NOISE = (0.02, 0.05, 0.1)  # σ, of images in [0, 1]


def load(name: str, count: int, training: bool = False) -> Tensor:
    """Images [count, 3, 64, 64] in [-1, 1]."""
    held_out, train = named_sets(name, SIZE, needs_captions=False)
    source = train if training and train is not None else held_out
    return torch.cat([batch["image"] for batch in source.batches(64, count)]) / 127.5 - 1


def row(name: str, images: Tensor, reference: Tensor, features: Features) -> str:
    found = kid(features(images), reference)
    return f"| {name} | {1000 * found.value:.2f} ({1000 * found.low:.2f} to {1000 * found.high:.2f}) |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", default="efficientnet-lite0")
    parser.add_argument("--other", nargs="*", default=[], help="other sources: folders or shards")
    parser.add_argument("--count", type=int, default=COUNT, help="images of a half")
    parser.add_argument("--save", type=Path)
    options = parser.parse_args()
    keep_freed_memory(torch.device("cpu"))
    features = make_features(options.features)
    images = load(DEMO, 2 * options.count, training=True)
    generator = torch.Generator().manual_seed(0)
    first, second = images[torch.randperm(len(images), generator=generator)].chunk(2)  # they lie in no random order
    reference = features(first)
    noise = torch.randn(second.shape, generator=generator)
    sets = {f"the other half of {len(images)} photographs": second}
    sets |= {f"… blurred, σ {sigma:g} pixels": blurred(second, sigma) for sigma in BLUR}
    sets |= {f"… under noise, σ {sigma:g}": (second + 2 * sigma * noise).clamp(-1, 1) for sigma in NOISE}
    sets |= {f"… {Path(name).stem}": load(name, options.count) for name in options.other}
    lines = [f"# python -m benchmarks.kid {' '.join(sys.argv[1:])}", machine(torch.get_num_threads()), ""]
    lines += [f"| against {len(first)} photographs of garments | KID ×10³ ({features.label}) |", "|---|---|"]
    lines += [row(name, one, reference, features) for name, one in sets.items()]
    text = "\n".join(lines)
    print(text)
    if options.save is not None:
        options.save.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
