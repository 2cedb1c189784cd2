"""Prompts × seeds of a flow, or originals beside the reconstructions of a VAE, as PNG files."""

import re
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from PIL.Image import Image
from torch import Tensor

from fluxflow import __version__
from fluxflow.checkpoint.model import load_vae, read_index
from fluxflow.commands.image_sets import DEMO, named_sets
from fluxflow.errors import ConfigError, DataError
from fluxflow.image_grid import grid, reconstruction_grid, save_png
from fluxflow.kernels.heap import keep_freed_memory
from fluxflow.pipeline import FluxFlowPipeline

if TYPE_CHECKING:
    from fluxflow.commands.sample import SampleConfig


def sample(config: "SampleConfig") -> Path:
    """Sample what the model of `config.run` can, say what goes on, and return the image grid that was written.

    Raises:
        ConfigError: a value that does not fit the model.
        CheckpointError: no model there, or a damaged one.
        DataError: prompts or pictures that cannot be read.
    """
    index = read_index(config.run)
    keep_freed_memory(device_of(config.device))
    beside = index.folder.parent if index.folder.is_file() else Path(config.run)
    out = Path(config.out or beside / "samples")
    if out.is_file():
        raise ConfigError(f"out={out} is a file: give the folder for the pictures.")
    path = (sample_prompts if "flow_processor" in index.components else reconstruct)(config, out)
    print(f"Written: {path}")
    return path


def sample_prompts(config: "SampleConfig", out: Path) -> Path:
    """Write one PNG a prompt and seed, and all of them as `grid.png` with a row a prompt and a column a seed."""
    prompts = read_prompts(Path(config.prompts_file)) if config.prompts_file else config.prompts
    device = device_of(config.device)
    pipeline = FluxFlowPipeline.from_pretrained(config.run, device=device, text_model=config.text_model)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    if config.compile:
        pipeline.compile_flow()
    rows: list[Sequence[Image]] = []
    for number, prompt in enumerate(prompts, start=1):
        start = time.perf_counter()
        images = pipeline(
            [prompt] * len(config.seeds),
            negative_prompt=config.negative_prompt,
            height=config.height,
            width=config.width,
            num_inference_steps=config.steps,
            guidance_scale=config.guidance,
            tile=config.tile,
            generator=[torch.Generator().manual_seed(seed) for seed in config.seeds],
        ).images
        for seed, image in zip(config.seeds, images, strict=True):
            save_png(image, out / f"{number:03d}_{slug(prompt)}_seed{seed}.png", metadata(config, prompt, seed))
        rows.append(images)
        print(f"[{number}/{len(prompts)}] {prompt}: {len(images)} images in {time.perf_counter() - start:.1f} s")
    columns = [f"seed {seed}" for seed in config.seeds]
    title = f"{config.run}: {config.steps} steps, guidance {config.guidance:g}"
    save_png(grid(rows, prompts, columns, title), out / "grid.png", metadata(config, prompts, config.seeds))
    return out / "grid.png"


def reconstruct(config: "SampleConfig", out: Path) -> Path:
    """Write held-out pictures above their reconstructions as `reconstructions.png`."""
    index = read_index(config.run)
    trained: Sequence[int | None] = index.sample_size or (None, None)
    height = config.height or trained[0] or config.width
    width = config.width or trained[1] or height
    if height is None or width is None:
        raise ConfigError(f"{index.folder} does not say at which size it was trained; give height and width.")
    images, captions = held_out(config.images, (height, width), config.count)
    device = device_of(config.device)
    space = load_vae(index.folder).to(device)
    with torch.no_grad():
        drawn = [space.reconstruct(part.to(device), config.tile).cpu() for part in images.split(8)]
    image_grid = reconstruction_grid(images, torch.cat(drawn), captions, f"{config.run}: pictures and reconstructions")
    save_png(image_grid, out / "reconstructions.png", {"model": config.run, "software": f"fluxflow {__version__}"})
    return out / "reconstructions.png"


def held_out(source: str | None, size: tuple[int, int], count: int) -> tuple[Tensor, list[str]]:
    """Return the first `count` pictures [B, 3, H, W] in [-1, 1] of a source, and their captions, perhaps empty.

    Args:
        source: a folder of pictures, with captions or without, or shards; None: the validation split of the demo.
        size: height and width in pixels.
        count: pictures at most, of those the readable ones.

    Raises:
        DataError: none of them can be read.
    """
    images, _ = named_sets(DEMO if source is None else source, size, needs_captions=False)
    batch = next(images.batches(count, limit=count))
    return batch["image"] / 127.5 - 1, batch["caption"]


def read_prompts(path: Path) -> list[str]:
    """Return the lines of a text file that are not empty."""
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"prompts_file {path} cannot be read: {error}.") from error
    prompts = [line.strip() for line in lines if line.strip()]
    if not prompts:
        raise DataError(f"prompts_file {path} holds no prompt: write one a line.")
    return prompts


def metadata(config: "SampleConfig", prompt: str | list[str], seed: int | list[int]) -> dict[str, object]:
    """Return what a PNG says about how it was drawn."""
    return {
        "prompt": prompt,
        "negative_prompt": config.negative_prompt,
        "seed": seed,
        "steps": config.steps,
        "guidance_scale": config.guidance,
        "model": config.run,
        "software": f"fluxflow {__version__}",
    }


def device_of(name: str) -> torch.device:
    """Return the device called `name`; "auto" is the first GPU, or else the CPU."""
    if name == "auto":
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        probe = torch.zeros(1, device=name)
        probe.item()  # some devices have tensors, and no numbers in them
        return probe.device
    except (RuntimeError, AssertionError, ImportError) as error:
        raise ConfigError(f"device={name} cannot be used here; try device=cpu or device=auto.") from error


def slug(text: str, length: int = 60) -> str:
    """Return `text` as part of a file name."""
    return re.sub(r"[^\w]+", "-", text.lower()).strip("-")[:length].strip("-") or "empty"
