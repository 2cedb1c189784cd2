"""Prints images/s on one core: python -m benchmarks.data [--peer PEER/bin/python] [--pictures DIR] [--pairs 9]

From JPEG bytes to a batch of 256 × 256 pixels, by our transform (random crop, flips) and by others, which take turns in
each pair on the same core: the median images/s of each, and the median of the pairs' ratios with its range.

- bare decoder: simplejpeg alone, at the scale that we decode at
- Pillow: decoding at the scale that its `draft` chooses, centre crop and Lanczos, uint8
- published: the image pipeline of fluxflow-training in the environment of --peer, to floats; its "256 px part" leaves
  out the version at full size that its collate function makes besides

Without --pictures the JPEGs are noise with the 1/f spectrum of photographs and about their 0.5 bytes a pixel; with it,
the pictures of a folder, resized.
"""

import argparse
import io
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import numpy as np
import simplejpeg
import torch
from PIL import Image

from benchmarks.pairs import Worker, machine
from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.decode import decode, decoder_name
from fluxflow.data.images.transforms import Transform
from fluxflow.data.sources.records import IMAGE_SUFFIXES, Record
from fluxflow.data.streaming.streams import collate

SIDE = 256
SOURCES = {"375 × 500": (375, 500), "512 × 512": (512, 512), "1024 × 1024": (1024, 1024)}  # height, width
Timed = Callable[[], dict[str, float]]


def pink_noise(height: int, width: int, seed: int) -> Image.Image:
    """Noise whose amplitude falls with 1/f, as that of photographs does (Field, 1987), of little colour."""
    rng = np.random.default_rng(seed)
    frequency = np.hypot(np.fft.fftfreq(height)[:, None], np.fft.rfftfreq(width))
    frequency[0, 0] = 1
    planes = [np.fft.irfft2(np.fft.rfft2(rng.normal(size=(height, width))) / frequency, (height, width)) for _ in "YUV"]
    y, u, v = (plane / plane.std() for plane in planes)
    pixels = 128 + 40 * np.stack([y + 0.3 * v, y - 0.1 * u - 0.15 * v, y + 0.3 * u], axis=-1)
    return Image.fromarray(pixels.clip(0, 255).astype(np.uint8))


def jpegs(height: int, width: int, count: int, pictures: Path | None) -> list[bytes]:
    found = [] if pictures is None else sorted(pictures.iterdir())
    names = [path for path in found if path.suffix.lower().lstrip(".") in IMAGE_SUFFIXES][:count]
    if pictures is not None and not names:
        raise SystemExit(f"{pictures} holds no picture ({', '.join(IMAGE_SUFFIXES)}).")
    images = [Image.open(name).convert("RGB").resize((width, height), Image.Resampling.BICUBIC) for name in names]
    files = []
    for image in images or [pink_noise(height, width, seed) for seed in range(count)]:
        data = io.BytesIO()
        image.save(data, "JPEG", quality=87)
        files.append(data.getvalue())
    return files


def timed(name: str, work: Callable[[], object]) -> Timed:
    def run() -> dict[str, float]:
        start = time.perf_counter()
        work()
        return {name: time.perf_counter() - start}

    return run


def ours(files: list[bytes]) -> torch.Tensor:
    transform = Transform(Buckets(SIDE, 16), crop="random", flip=0.5)
    records = [Record(str(number), data, ("a photo",)) for number, data in enumerate(files)]
    return collate([transform(r, transform.size(r), random.Random(r.key)) for r in records])["image"]


def bare(files: list[bytes]) -> None:
    height, width = decode(files[0], (SIDE, SIDE)).shape[:2]
    for data in files:
        simplejpeg.decode_jpeg(data, min_height=height, min_width=width)


def pillow(files: list[bytes]) -> torch.Tensor:
    batch = []
    for data in files:
        image = Image.open(io.BytesIO(data))
        image.draft("RGB", (SIDE, SIDE))
        image = image.convert("RGB")
        left, top = ((side - min(image.size)) // 2 for side in image.size)
        box = (left, top, left + min(image.size), top + min(image.size))
        pixels = np.array(image.resize((SIDE, SIDE), Image.Resampling.LANCZOS, box))
        batch.append(torch.from_numpy(pixels).permute(2, 0, 1))
    return torch.stack(batch)


OURS_AND_OTHERS = {"ours": ours, "bare decoder": bare, "Pillow": pillow}


def published(worker: Worker, folder: Path) -> dict[str, float]:
    """What benchmarks/peer_data.py answers."""
    part, whole = worker.ask(str(folder))
    return {"published, 256 px part": part, "published, whole": whole}


def compare(source: str, files: list[bytes], runs: list[Timed], pairs: int) -> None:
    """Lets all take turns and prints a row for each."""
    times: dict[str, list[float]] = {}
    for pair in range(pairs + 1):
        for run in runs:
            for name, seconds in run().items():
                times.setdefault(name, []).extend([seconds] if pair else [])  # the first pair warms up
    mean = sum(map(len, files)) / len(files) / 1024
    print(f"{source} → {SIDE} px, {len(files)} JPEGs of {mean:.0f} KiB")
    for name, other in times.items():
        ratios = [b / a for a, b in zip(times["ours"], other, strict=True)]
        speed = len(files) / statistics.median(other)
        ratio = f"   ours/this {statistics.median(ratios):5.2f}  {min(ratios):.2f}–{max(ratios):.2f}"
        print(f"  {name:24} {speed:6.0f} images/s{'' if name == 'ours' else ratio}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--peer", help="the Python of an environment that has the published package")
    parser.add_argument("--pictures", type=Path, help="folder of pictures to make the JPEGs of")
    parser.add_argument("--pairs", type=int, default=9)
    parser.add_argument("--count", type=int, default=32, help="JPEGs of each size")
    arguments = parser.parse_args()
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {max(os.sched_getaffinity(0))})  # before the peer starts, which inherits it
    torch.set_num_threads(1)
    print(f"{machine(threads=1)}, on one of the cores")
    capability = torch.backends.cpu.get_cpu_capability()
    print(f"{decoder_name()}, torch {torch.__version__} ({capability}), {arguments.pairs} pairs")
    script = str(Path(__file__).with_name("peer_data.py"))
    peer = Worker([arguments.peer, script, str(SIDE)], threads=1) if arguments.peer else None
    for source, (height, width) in SOURCES.items():
        files = jpegs(height, width, arguments.count, arguments.pictures)
        runs = [timed(name, partial(work, files)) for name, work in OURS_AND_OTHERS.items()]
        with tempfile.TemporaryDirectory() as folder:
            for number, data in enumerate(files):
                (Path(folder) / f"{number:03d}.jpg").write_bytes(data)
            if peer is not None:
                runs.append(partial(published, peer, Path(folder)))
            compare(source, files, runs, arguments.pairs)


if __name__ == "__main__":
    main()
