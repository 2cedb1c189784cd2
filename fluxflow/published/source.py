"""Opening published checkpoints: which files there are, and which tensors they name, without loading any."""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from fluxflow.checkpoint.training import read_checkpoint
from fluxflow.errors import CheckpointError
from fluxflow.formats import PUBLISHED
from fluxflow.runs import PICKLES, PUBLISHED_WEIGHTS, enclosing
from fluxflow.schema import read_json

COMPONENTS = ("compressor", "expander", "flow_processor", "text_encoder")
TEXT_ENCODER, METADATA = "text_encoder.safetensors", "model_metadata.json"
PREFIX = "diffuser."


@dataclass(frozen=True)
class Entry:
    """Where a tensor lies."""

    file: Path
    key: str
    shape: tuple[int, ...]
    dtype: str


@dataclass(frozen=True)
class Source:
    """A published checkpoint.

    Args:
        path: what the user named.
        files: the safetensors files that belong to it.
        components: component → published name without the component's → where the tensor lies.
        metadata: the content of `model_metadata.json`, or nothing.
        header: the texts that the files themselves carry.
    """

    path: Path
    files: list[Path]
    components: dict[str, dict[str, Entry]]
    metadata: dict[str, Any]
    header: dict[str, str]

    def tensors(self, component: str) -> dict[str, Tensor]:
        """Load the tensors of one component under their published names."""
        loaded: dict[str, Tensor] = {}
        for file in self.files:
            with _opened(file) as tensors:
                mine = {name: entry for name, entry in self.components[component].items() if entry.file == file}
                loaded |= {name: tensors.get_tensor(entry.key) for name, entry in mine.items()}
        return loaded


def open_source(path: str | Path) -> Source:
    """Return what lies at `path`: a .safetensors file, or a folder in which published tools keep theirs.

    Raises:
        CheckpointError: nothing there, a pickle, a damaged file, or tensors of no published component.
    """
    path = Path(path)
    if whole := enclosing(path):
        raise CheckpointError(f"{path} is of a {whole[0]} of FluxFlow's own: give the {whole[0]}'s folder.")
    files = _files(path)
    components: dict[str, dict[str, Entry]] = {}
    header: dict[str, str] = {}
    for file in files:
        with _opened(file) as tensors:
            header |= tensors.metadata() or {}
            for key in tensors.keys():  # noqa: SIM118 (not a mapping)
                component, name = _place(key, file)
                if name in components.setdefault(component, {}):
                    first = components[component][name].file.name
                    raise CheckpointError(f"{path}: {component}.{name} is there twice, in {first} and in {file.name}.")
                part = tensors.get_slice(key)
                components[component][name] = Entry(file, key, tuple(part.get_shape()), part.get_dtype())
    beside = (path if path.is_dir() else path.parent) / METADATA
    metadata = read_json(beside, PUBLISHED) if beside.is_file() else {}
    ordered = {name: components[name] for name in COMPONENTS if name in components}
    return Source(path, files, ordered, metadata, header)


def _files(path: Path) -> list[Path]:
    if path.is_file():
        if path.suffix in PICKLES:
            raise CheckpointError(_conversion(path))
        return [path]
    if not path.is_dir():
        raise CheckpointError(f"There is no {path}.")
    weights = next((path / name for name in PUBLISHED_WEIGHTS if (path / name).is_file()), None)
    if weights is not None:
        return [weights, *(file for file in [path / TEXT_ENCODER] if file.is_file())]
    for file in sorted(path.iterdir()):
        if file.suffix in PICKLES:
            raise CheckpointError(_conversion(file))
    raise CheckpointError(f"{path} holds neither {' nor '.join(PUBLISHED_WEIGHTS)}.")


def _conversion(path: Path) -> str:
    if path.suffix == ".ckpt" and _is_training_checkpoint(path):
        return f"{path} is a checkpoint of a training, not a model: give the run's folder, whose model/ is one."
    return (
        f"{path} is a pickle, which runs what it holds, and is not opened. Where you trust it, convert it: python -c "
        f"'import torch, safetensors.torch as s; s.save_file(torch.load({json.dumps(str(path))}, weights_only=True), "
        f"{json.dumps(str(path.with_suffix('.safetensors')))})'"
    )


def _is_training_checkpoint(path: Path) -> bool:
    try:
        return "global_step" in read_checkpoint(path)
    except CheckpointError:
        return False


def _opened(file: Path) -> safe_open:
    try:
        return safe_open(file, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"{file} is truncated or no safetensors file ({error}); copy it again.") from error


def _place(key: str, file: Path) -> tuple[str, str]:
    """Return the component of a key and its name there; a file of the text encoder may leave the component out."""
    component, _, name = key.removeprefix(PREFIX).partition(".")
    if component in COMPONENTS and name:
        return component, name
    if file.name == TEXT_ENCODER:
        return "text_encoder", key
    raise CheckpointError(
        f"{file}: {key} is of no published FluxFlow component ({', '.join(COMPONENTS)}), with or without {PREFIX!r}."
    )
