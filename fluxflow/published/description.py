"""What a checkpoint says of itself, without loading its tensors."""

import hashlib
import math
from collections.abc import Iterator
from pathlib import Path

from fluxflow.checkpoint.index import ModelIndex
from fluxflow.checkpoint.model import read_index
from fluxflow.models.weights import CONFIG
from fluxflow.published.sizes import Choices, arguments, version_name
from fluxflow.published.source import Entry, Source, open_source
from fluxflow.revisions import current
from fluxflow.runs import is_published
from fluxflow.schema import read_json

TRAINING_STATE = "training_state.json"  # of fluxflow-training, beside the weights


def describe(path: str | Path, tensors: bool = False) -> Iterator[str]:
    """Yield the lines of `python -m fluxflow.checkpoint inspect`.

    Args:
        path: a published checkpoint, or a run or model folder.
        tensors: also list every tensor of a published one.

    Raises:
        CheckpointError: it cannot be read, or it is of no known version.
    """
    if not is_published(path):
        yield from _ours(read_index(path))
        return
    source = open_source(path)
    found = arguments(source, Choices())
    yield f"{source.path}: published FluxFlow checkpoint of version {version_name(source, Choices())}"
    yield from _files(source)
    yield ""
    for component, entries in source.components.items():
        sizes = ", ".join(f"{key}={value}" for key, value in found[component].items() if key != "backbone")
        yield f"{component:15} {_values(entries):>12,} values in {len(entries):4} tensors  ({sizes})"
    yield f"{'together':15} {sum(map(_values, source.components.values())):>12,} values"
    yield from _training(source)
    if tensors:
        yield ""
        for component, entries in source.components.items():
            yield from (f"{component}.{name}  {list(e.shape)}  {e.dtype}" for name, e in sorted(entries.items()))


def _ours(index: ModelIndex) -> Iterator[str]:
    yield f"{index.folder}: model of FluxFlow, VAE {index.vae_hash}"
    for name in index.components:
        if (config := current(index.folder / name / CONFIG, index.revision)).is_file():
            content = read_json(config)
            sizes = ", ".join(
                f"{key}={value}" for key, value in content.items() if key not in ("_class_name", "backbone")
            )
            yield f"{name:15} {content.get('_class_name')}({sizes})"


def _files(source: Source) -> Iterator[str]:
    recorded = source.metadata.get("checksum", {}).get("weights_hash")
    for index, file in enumerate(source.files):
        sha = _sha256(file)
        verdict = ""
        if recorded and index == 0:
            verdict = ", as recorded" if recorded == sha else f", but {recorded} is recorded"
        yield f"  {file.name}  {file.stat().st_size / 1e6:.1f} MB  sha256 {sha}{verdict}"


def _sha256(file: Path) -> str:
    digest = hashlib.sha256()
    with file.open("rb") as content:
        while chunk := content.read(2**20):
            digest.update(chunk)
    return digest.hexdigest()


def _training(source: Source) -> Iterator[str]:
    state = (source.path if source.path.is_dir() else source.path.parent) / TRAINING_STATE
    said = {
        "header": source.header,
        "training": source.metadata.get("training_info") or {},
        TRAINING_STATE: read_json(state) if state.is_file() else {},
    }
    for origin, values in said.items():
        for key, value in values.items():
            yield f"{origin}: {key} = {value}"


def _values(entries: dict[str, Entry]) -> int:
    return sum(math.prod(entry.shape) for entry in entries.values())
