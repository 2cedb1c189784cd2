"""The measures of one model, and the files that keep them."""

import hashlib
import json
import subprocess
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from omegaconf import DictConfig, OmegaConf
from rich.progress import track
from torch import nn

from fluxflow import __version__
from fluxflow.checkpoint.index import ModelIndex
from fluxflow.checkpoint.model import load_model, read_index
from fluxflow.checkpoint.training import read_checkpoint
from fluxflow.commands.build import build
from fluxflow.commands.configuration import LATENT_DATA
from fluxflow.commands.image_sets import ImageSet, named_sets
from fluxflow.data.datamodule import DataModule
from fluxflow.data.shapes.reader import ShapesReader
from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.files import replacing
from fluxflow.image_grid import grid, save_png, to_pil
from fluxflow.metrics.features import Features
from fluxflow.metrics.measure import PARTS, Evaluation
from fluxflow.metrics.reconstruction import evaluate_reconstructions
from fluxflow.metrics.samples import Draw, Photographs, drawing, evaluate_samples, evaluate_shapes
from fluxflow.metrics.velocity import AVERAGED, evaluate_velocity
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.registry import digest
from fluxflow.models.text_encoder import TextEncoder
from fluxflow.pipeline import FluxFlowPipeline
from fluxflow.runs import LAST

OF_HELD_OUT = ("reconstruction", "velocity", "photographs")  # groups whose measures are of all held-out images
FORMAT = 1
BATCH = 16  # images
SHOWN = 8  # captions on the image grid


@dataclass(frozen=True)
class EvaluationConfig:
    """What to measure; the fields are the options of the command.

    Args:
        data: "demo", "shapes", a folder or shards; None: the held-out images of the run.
        only: parts of the evaluation; empty: all that the model's stage has.
        count: held-out images at most.
        training: training images at most that samples are compared with.
        prompts: captions that are drawn.
        seeds: samples of each.
        steps, guidance: of the sampler.
        features: their name, as of `make_features`.
    """

    data: str | None
    only: Sequence[str]
    count: int
    training: int
    prompts: int
    seeds: int
    steps: int
    guidance: float
    features: str


def evaluate(run: str, config: EvaluationConfig, features: Features, device: torch.device) -> dict[str, Any]:
    """Measure the model of `run`.

    Returns:
        What evaluation.json holds; without times, so that a repetition gives the same.

    Raises:
        ConfigError: options that do not fit the model.
        CheckpointError: no model there, or a damaged one.
        DataError: no images.
    """
    index = read_index(run)
    stage = "flow" if "flow_processor" in index.components else "vae"
    parts = config.only or PARTS[stage]
    if unfit := set(parts) - {*PARTS["vae"], *PARTS[stage]}:
        raise ConfigError(f"--only {' '.join(sorted(unfit))}: {run} is a VAE, which has reconstructions alone.")
    held_out, training = _sets(run, index, config, needs_captions=stage == "flow")
    if "captions" in config.only and not isinstance(held_out.reader, ShapesReader):
        raise ConfigError("--only captions scores samples of data=shapes: add --data shapes.")
    _, components = load_model(run)
    networks: dict[str, Any] = {
        name: one.to(device).eval() for name, one in components.items() if isinstance(one, nn.Module)
    }
    space = LatentSpace(networks["compressor"], networks["expander"], *index.statistics()).to(device).eval()
    results = []
    for part in parts:
        batches = _Shown(held_out, config.count, part)
        if part == "reconstruction":
            results.append(evaluate_reconstructions(space, batches, features))
        elif part == "velocity":
            results.append(evaluate_velocity(space, _flows(run, index, networks), batches))
        elif part == "samples":
            photographs = _photographs(held_out, config.count, features)
            seen = None if training is None else _photographs(training, config.training, features)
            results.append(_samples(run, photographs, seen or photographs, features, config, device))
        elif isinstance(held_out.reader, ShapesReader):
            side = held_out.reader.image_size
            results.append(evaluate_shapes(_drawing(run, (side, side), config, device), config.prompts))
    measures = [measure for result in results for measure in result.measures]
    held = max((measure.count for measure in measures if measure.group in OF_HELD_OUT), default=0)
    return {
        "format": FORMAT,
        "fluxflow": __version__,
        "commit": commit(),
        "model": {"path": str(run), "stage": stage, "sha256": model_hash(networks), "step": index.step},
        "data": {"name": held_out.name, "fingerprint": held_out.reader.fingerprint(), "samples": held},
        "settings": asdict(config) | {"device": device.type, "torch": torch.__version__},
        "measures": [measure.row() for measure in measures],
        "curves": [asdict(curve) for result in results for curve in result.curves],
    }


class _Shown:
    """The batches of an image set, with a bar of progress on a terminal; can be gone through more than once."""

    def __init__(self, images: ImageSet, limit: int, what: str) -> None:
        self.images, self.limit, self.what = images, limit, what

    def __iter__(self) -> Any:
        batches = self.images.batches(BATCH, self.limit)
        return iter(track(batches, description=self.what, total=None, transient=True))


def _sets(
    run: str, index: ModelIndex, config: EvaluationConfig, needs_captions: bool
) -> tuple[ImageSet, ImageSet | None]:
    if config.data is None:
        return _sets_of_run(Path(run))
    if index.sample_size is None:
        raise ConfigError(f"{run} does not say at which size it was trained: evaluate the run, without --data.")
    return named_sets(config.data, index.sample_size, needs_captions)


def _sets_of_run(run: Path) -> tuple[ImageSet, ImageSet]:
    """The held-out images of a run, and its training images.

    Raises:
        ConfigError: it has no config.yaml, or trained from a cache of latents.
        DataError: its data is no longer there.
    """
    path = run / "config.yaml"
    if not path.is_file():
        raise ConfigError(f"{run} does not say which images it trained on (no config.yaml): name some by --data.")
    node = DictConfig(OmegaConf.load(path)).data
    if node["_target_"] == LATENT_DATA:
        raise ConfigError(f"{run} trained on cached latents, which hold no images: name the images by --data.")
    node.num_workers, node.rejected = 0, None
    data = build(node)
    assert isinstance(data, DataModule)
    data.setup()
    first = next(iter(data.sources.values())).reader
    return (
        ImageSet(f"held-out images of {run}", data.val_reader, data.val_split, data.val_transform),
        ImageSet(f"training images of {run}", first, data.train_split, data.val_transform),
    )


def _flows(run: str, index: ModelIndex, networks: dict[str, Any]) -> dict[str, tuple[nn.Module, TextEncoder]]:
    """The averaged weights of the model folder, and the raw ones where the checkpoint of the same step is there."""
    flows = {AVERAGED: (networks["flow_processor"], networks["text_encoder"])}
    with suppress(CheckpointError):
        content = read_checkpoint(Path(run) / LAST)
        if content["global_step"] == index.step and "EMA" in content["callbacks"]:
            raw = load_model(run, only=("flow_processor", "text_encoder", "tokenizer"))[1]
            for name, network in (("flow_processor", raw["flow_processor"]),
                                  ("text_encoder.output_layer", raw["text_encoder"].output_layer)):  # fmt: skip
                own = {key.removeprefix(f"{name}."): value for key, value in content["state_dict"].items()
                       if key.startswith(f"{name}.")}  # fmt: skip
                network.load_state_dict(own)
            raw["text_encoder"].to(networks["flow_processor"].device)
            raw["flow_processor"].to(networks["flow_processor"].device)
            flows["raw weights"] = (raw["flow_processor"].eval(), raw["text_encoder"])
    return flows


def _samples(
    run: str,
    held_out: Photographs,
    training: Photographs,
    features: Features,
    config: EvaluationConfig,
    device: torch.device,
) -> Evaluation:
    height, width = held_out.images.shape[2:]
    draw = _drawing(run, (height, width), config, device)
    result, samples = evaluate_samples(draw, held_out, training, features, config.prompts, config.seeds)
    rows = [to_pil(row) for row in samples[:SHOWN]]
    captions = held_out.captions[: len(rows)]
    columns = [f"sample {number}" for number in range(1, config.seeds + 1)]
    save_png(grid(rows, captions, columns, f"{run}: {config.steps} steps, guidance {config.guidance:g}"),
             beside(run) / "evaluation.png", {"model": run, "prompt": captions})  # fmt: skip
    return result


def _drawing(run: str, size: tuple[int, int], config: EvaluationConfig, device: torch.device) -> Draw:
    pipeline = FluxFlowPipeline.from_pretrained(run, device=device)
    return drawing(pipeline, size, config.steps, config.guidance, progress=True)


def _photographs(images: ImageSet, limit: int, features: Features) -> Photographs:
    found, captions, vectors = [], [], []
    for batch in _Shown(images, limit, images.name):
        if found and batch["image"].shape[2:] != found[0].shape[2:]:
            raise ConfigError(f"{images.name} has images of several shapes: samples are compared at one alone.")
        found.append(batch["image"])
        captions += batch["caption"]
        vectors.append(features(batch["image"]).cpu())
    return Photographs(torch.cat(found), captions, torch.cat(vectors))


def beside(run: str) -> Path:
    """The folder in which the files of an evaluation go: the run or model folder, or that of a published checkpoint."""
    path = Path(run)
    return path.parent if path.is_file() else path


def model_hash(networks: dict[str, nn.Module]) -> str:
    """The sha256 over the weights of all networks of a model."""
    sha = hashlib.sha256()
    for name in sorted(networks):
        sha.update(f"{name} {digest(networks[name].state_dict())}\n".encode())
    return sha.hexdigest()


def commit() -> str | None:
    """The commit of FluxFlow, where it runs from a clone."""
    with suppress(OSError):
        command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=12"]
        found = subprocess.run(command, capture_output=True, text=True)
        if found.returncode == 0:
            return str(found.stdout.strip())
    return None


def write(result: dict[str, Any], path: Path) -> None:
    """Write evaluation.json. Raises StorageError."""
    with replacing(path) as file:
        file.write((json.dumps(result, indent=1, ensure_ascii=False) + "\n").encode())
