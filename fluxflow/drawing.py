"""What `sample.py` does: prompts × seeds of a flow, or originals beside the reconstructions of a VAE, as PNG files."""

import re
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, get_type_hints

import torch
from PIL.Image import Image
from torch import Tensor

from fluxflow import __version__
from fluxflow.checkpoint import load_vae, read_index
from fluxflow.configuration import unknown_key
from fluxflow.errors import ConfigError, DataError
from fluxflow.kernels.heap import keep_freed_memory
from fluxflow.pictures import grid, reconstruction_sheet, save_png
from fluxflow.pipeline import FluxFlowPipeline
from fluxflow.values import check_bounds, check_value


@dataclass(frozen=True)
class Drawing:
    """What to draw; the fields are the keys of configs/sample.yaml, which explains them.

    Raises:
        ConfigError: no prompts or no seeds.
    """

    run: str
    text_model: str | None
    out: str | None
    device: str
    prompts: list[str]
    prompts_file: str | None
    negative_prompt: str
    seeds: list[int]
    steps: int
    guidance: float
    height: int | None
    width: int | None
    compile: bool
    tile: int | None
    images: str | None
    count: int

    @classmethod
    def from_config(cls, config: dict[str, Any]) -> "Drawing":
        """Take the keys of a composed config.

        Raises:
            ConfigError: an unknown key, with the nearest names; a value of another kind or out of range.
        """
        names = [field.name for field in fields(cls)]
        for key in config:
            if key not in names:
                raise ConfigError(unknown_key(key, names))
        for key in names:
            if key not in config:
                raise ConfigError(f"{key} is missing: give {key}=, or leave out the override that removes it.")
        given = dict(config)
        for key in ("prompts", "seeds"):
            given[key] = config[key] if isinstance(config[key], list) else [config[key]]
        for key, hint in get_type_hints(cls).items():
            check_value(key, given[key], hint)
        check_bounds(config)
        return cls(**given)

    def __post_init__(self) -> None:
        for name in ("prompts", "seeds"):
            if not getattr(self, name):
                raise ConfigError(f"{name} is an empty list: give at least one.")


def draw(drawing: Drawing) -> Path:
    """Draw what the model of `drawing.run` can draw, say what goes on, and return the sheet that was written.

    Raises:
        ConfigError: a value that does not fit the model.
        CheckpointError: no model there, or a damaged one.
        DataError: prompts or pictures that cannot be read.
    """
    index = read_index(drawing.run)
    keep_freed_memory(device_of(drawing.device))
    beside = index.folder.parent if index.folder.is_file() else Path(drawing.run)
    out = Path(drawing.out or beside / "samples")
    if out.is_file():
        raise ConfigError(f"out={out} is a file: give the folder for the pictures.")
    path = (draw_prompts if "flow_processor" in index.components else draw_reconstructions)(drawing, out)
    print(f"Written: {path}")
    return path


def draw_prompts(drawing: Drawing, out: Path) -> Path:
    """Write one PNG a prompt and seed, and all of them as `grid.png` with a row a prompt and a column a seed."""
    prompts = read_prompts(Path(drawing.prompts_file)) if drawing.prompts_file else drawing.prompts
    device = device_of(drawing.device)
    pipeline = FluxFlowPipeline.from_pretrained(drawing.run, device=device, text_model=drawing.text_model)
    pipeline.set_progress_bar_config(disable=not sys.stderr.isatty(), leave=False)
    if drawing.compile:
        pipeline.compile_flow()
    rows: list[Sequence[Image]] = []
    for number, prompt in enumerate(prompts, start=1):
        start = time.perf_counter()
        pictures = pipeline(
            [prompt] * len(drawing.seeds),
            negative_prompt=drawing.negative_prompt,
            height=drawing.height,
            width=drawing.width,
            num_inference_steps=drawing.steps,
            guidance_scale=drawing.guidance,
            tile=drawing.tile,
            generator=[torch.Generator().manual_seed(seed) for seed in drawing.seeds],
        ).images
        for seed, picture in zip(drawing.seeds, pictures, strict=True):
            save_png(picture, out / f"{number:03d}_{slug(prompt)}_seed{seed}.png", metadata(drawing, prompt, seed))
        rows.append(pictures)
        print(f"[{number}/{len(prompts)}] {prompt}: {len(pictures)} pictures in {time.perf_counter() - start:.1f} s")
    columns = [f"seed {seed}" for seed in drawing.seeds]
    title = f"{drawing.run}: {drawing.steps} steps, guidance {drawing.guidance:g}"
    save_png(grid(rows, prompts, columns, title), out / "grid.png", metadata(drawing, prompts, drawing.seeds))
    return out / "grid.png"


def draw_reconstructions(drawing: Drawing, out: Path) -> Path:
    """Write held-out pictures above their reconstructions as `reconstructions.png`."""
    index = read_index(drawing.run)
    trained: Sequence[int | None] = index.sample_size or (None, None)
    height = drawing.height or trained[0] or drawing.width
    width = drawing.width or trained[1] or height
    if height is None or width is None:
        raise ConfigError(f"{index.folder} does not say at which size it was trained; give height and width.")
    images, captions = held_out(drawing.images, (height, width), drawing.count)
    device = device_of(drawing.device)
    space = load_vae(index.folder).to(device)
    with torch.no_grad():
        drawn = [space.reconstruct(part.to(device), drawing.tile).cpu() for part in images.split(8)]
    sheet = reconstruction_sheet(images, torch.cat(drawn), captions, f"{drawing.run}: pictures and reconstructions")
    save_png(sheet, out / "reconstructions.png", {"model": drawing.run, "software": f"fluxflow {__version__}"})
    return out / "reconstructions.png"


def held_out(source: str | None, size: tuple[int, int], count: int) -> tuple[Tensor, list[str]]:
    """Return the first `count` pictures [B, 3, H, W] in [-1, 1] of a source, and their captions, perhaps empty.

    Args:
        source: a folder of pictures, with captions or without, or shards; None: the validation part of the demo.
        size: height and width in pixels.
        count: pictures at most, of those the readable ones.

    Raises:
        DataError: none of them can be read.
    """
    from fluxflow.data.buckets import Buckets
    from fluxflow.data.folder import FolderReader
    from fluxflow.data.records import Part
    from fluxflow.data.shards import ShardReader, demo_shards
    from fluxflow.data.stream import ValidationStream
    from fluxflow.data.tally import Tally
    from fluxflow.data.transforms import Transform

    if source is None:
        reader = demo_shards("val")
    else:
        plain = Path(source).is_dir() and not any(Path(source).glob("*.tar"))
        reader = (FolderReader if plain else ShardReader)(source, needs_captions=False)
    reader.open()
    stream = ValidationStream(reader, Part(), Transform(Buckets.single(*size)), batch_size=count, limit=count)
    tally = Tally(limit=1.0)
    for item in stream:
        tally.add(item.seen, item.rejected)
        if item.batch is not None:
            return item.batch["image"] / 127.5 - 1, item.batch["caption"]
    raise DataError(f"{reader}: no picture to draw; {tally.report()}.")


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


def metadata(drawing: Drawing, prompt: str | list[str], seed: int | list[int]) -> dict[str, object]:
    """Return what a PNG says about how it was drawn."""
    return {
        "prompt": prompt,
        "negative_prompt": drawing.negative_prompt,
        "seed": seed,
        "steps": drawing.steps,
        "guidance_scale": drawing.guidance,
        "model": drawing.run,
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
