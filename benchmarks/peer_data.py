"""The loader of the published package, timed on demand; runs in its environment, where `fluxflow` is the published one.

    PEER/bin/python benchmarks/peer_data.py 256

reads the names of folders of JPEGs from its input, one a line, and answers with the seconds that its image pipeline
took over the folder's files: those of its 256 px version alone, and those of its collate function, which makes a
version at the size of the picture besides. `benchmarks/data.py` asks.
"""

import io
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch
from fluxflow_training.data.transforms import collate_fn_variable, generate_reduced_versions
from pairs import answer
from PIL import Image
from torchvision import transforms

TO_FLOAT = transforms.Compose([transforms.ToTensor(), transforms.Normalize([0.5] * 3, [0.5] * 3)])  # as its collate has
NO_CAPTION = torch.zeros(1, dtype=torch.long)


def part(files: list[bytes], side: int) -> None:
    pictures = [generate_reduced_versions(Image.open(io.BytesIO(data)).convert("RGB"), [side])[0] for data in files]
    torch.stack([TO_FLOAT(picture).contiguous() for picture in pictures])


def whole(files: list[bytes], side: int) -> None:
    samples = [(NO_CAPTION, Image.open(io.BytesIO(data))) for data in files]
    collate_fn_variable(samples, channels=3, img_size=side, reduced_min_sizes=[side])


def seconds(work: Callable[[list[bytes], int], None], files: list[bytes], side: int) -> float:
    start = time.perf_counter()
    work(files, side)
    return time.perf_counter() - start


def main() -> None:
    torch.set_num_threads(1)
    side = int(sys.argv[1])
    for line in sys.stdin:
        files = [path.read_bytes() for path in sorted(Path(line.strip()).iterdir())]
        answer(seconds(part, files, side), seconds(whole, files, side))


if __name__ == "__main__":
    main()
