"""The model folder in the layout of diffusers: `model_index.json` and a folder a component.

After stage 1 it holds compressor and expander, after stage 2 every component, so that it needs no other file.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import diffusers
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fluxflow.checkpoint.borrowed import load_scheduler, load_words
from fluxflow.checkpoint.index import ModelIndex
from fluxflow.diffusion.sampler import SCHEDULERS
from fluxflow.errors import CheckpointError, NotFiniteError
from fluxflow.formats import INDEX as INDEX_RULE
from fluxflow.formats import REVISION
from fluxflow.models.bezier_text import BezierTextEncoder
from fluxflow.models.encoders import BertTextEncoder
from fluxflow.models.latent_space import LatentSpace, statistic, vae_hash
from fluxflow.models.text_encoder import TextEncoder
from fluxflow.models.weights import is_whole, load_network, network_contents
from fluxflow.published.reader import CLASSES, load_published, published_index
from fluxflow.published.sizes import Choices
from fluxflow.revisions import Content, current, publish, settled, text_content
from fluxflow.runs import INDEX, find_model, is_published, nearby_models
from fluxflow.schema import check, read_json

# Component → the classes that it may have; none: any tokenizer of transformers.
COMPONENTS: dict[str, tuple[str, ...]] = {
    **{name: (cls.__name__,) for name, cls in CLASSES.items()},
    "text_encoder": (BertTextEncoder.__name__, BezierTextEncoder.__name__),
    "tokenizer": (),
    "scheduler": SCHEDULERS,
}
VAE = ("compressor", "expander")
STEP = "_step"


def save_model(
    folder: str | Path,
    *,
    compressor: nn.Module,
    expander: nn.Module,
    latent_mean: Tensor | Sequence[float],
    latent_std: Tensor | Sequence[float],
    flow_processor: nn.Module | None = None,
    text_encoder: nn.Module | None = None,
    tokenizer: PreTrainedTokenizerBase | None = None,
    scheduler: SchedulerMixin | None = None,
    sample_size: int | Sequence[int] | None = None,
    step: int | None = None,
) -> None:
    """Write a model folder; a killed writer leaves the old one, and weights that have not changed are not rewritten.

    Args:
        folder: where `model_index.json` goes.
        compressor, expander: the VAE.
        latent_mean, latent_std: mean and deviation of each latent channel, [D].
        flow_processor, text_encoder: the networks of stage 2.
        tokenizer: the text encoder's own by default.
        scheduler: the solver of the sampler.
        sample_size: side, or height and width, in pixels, of the training images: the default size of samples.
        step: of the training, where it belongs to one.

    Raises:
        CheckpointError: a component of another class.
        NotFiniteError: a weight or a statistic is infinite or NaN; what the folder holds stays.
        StorageError: it cannot be written; what was there is left.
    """
    folder = Path(folder)
    components = {
        "compressor": compressor,
        "expander": expander,
        "flow_processor": flow_processor,
        "text_encoder": text_encoder,
        "tokenizer": tokenizer or getattr(text_encoder, "tokenizer", None),
        "scheduler": scheduler,
    }
    for name, component in components.items():
        if component is not None and COMPONENTS[name] and type(component).__name__ not in COMPONENTS[name]:
            wanted = " or ".join(COMPONENTS[name])
            raise CheckpointError(f"{name} must be a {wanted}, not a {type(component).__name__}.")
    mean, std = statistic(latent_mean), statistic(latent_std)
    _check_finite(components | {"latent_mean": mean, "latent_std": std}, folder)
    index: dict[str, Any] = {"_class_name": "FluxFlowPipeline", "_diffusers_version": diffusers.__version__}
    contents: dict[str, Content] = {}
    for name, component in components.items():
        index[name], files = _component(component)
        contents |= {f"{name}/{file}": content for file, content in files.items()}
    index["latent_mean"], index["latent_std"] = mean.tolist(), std.tolist()
    index["sample_size"] = list(as_size(sample_size)) if sample_size is not None else None
    index["vae_hash"] = vae_hash(compressor, expander, mean, std)
    publish(folder, contents, INDEX, index if step is None else index | {STEP: step})


def is_exported(folder: Path, step: int) -> bool:
    """Return whether a model folder is whole, to the last byte of its weights, and was written after this step."""
    try:
        index, _ = load_model(folder)
    except CheckpointError:
        return False
    weights = [path for name in index.components for path in (folder / name).glob("*.safetensors")]
    return index.step == step and all(is_whole(current(path, index.revision)) for path in weights)


def read_index(path: str | Path) -> ModelIndex:
    """Return what the `model_index.json` of a run or model folder says, or what a published checkpoint holds.

    Raises:
        CheckpointError: it is neither of ours nor a published one.
    """
    if is_published(path):
        return published_index(path)
    folder = find_model(path)
    content = read_json(folder / INDEX)
    if content.get("_class_name") != "FluxFlowPipeline":
        raise CheckpointError(f"{folder} is a {content.get('_class_name')}, not a model of FluxFlow.")
    wanted = ("latent_mean", "latent_std", "sample_size", "vae_hash")
    if missing := [key for key in wanted if key not in content]:
        raise CheckpointError(f"{folder / INDEX} lacks {', '.join(missing)}; export the model again.")
    check(content, INDEX_RULE, folder / INDEX)
    size = content["sample_size"]
    return ModelIndex(
        folder=folder,
        components=[name for name in COMPONENTS if (content.get(name) or [None])[0] is not None],
        latent_mean=content["latent_mean"],
        latent_std=content["latent_std"],
        sample_size=as_size(size) if size is not None else None,
        vae_hash=content["vae_hash"],
        step=content.get(STEP),
        revision=content.get(REVISION),
    )


def load_model(
    path: str | Path, choices: Choices | None = None, only: Sequence[str] = tuple(COMPONENTS)
) -> tuple[ModelIndex, dict[str, Any]]:
    """Build the components of a model: names → networks in eval mode, tokenizer and scheduler.

    Args:
        path: a run or model folder, or a published checkpoint.
        choices: what a published checkpoint does not tell.
        only: the components to build, where they are there.

    Raises:
        CheckpointError: no model there, a component that is damaged or of another class, or a VAE that is not the
            one that the folder was written with.
    """
    if is_published(path):
        return load_published(path, choices, only)
    index = read_index(path)
    return index, _load_components(index, [name for name in index.components if name in only])


def load_vae(path: str | Path) -> LatentSpace:
    """Return the VAE of a model with its latent statistics: frozen, in eval mode, on the CPU.

    Args:
        path: a run or model folder, or a published checkpoint.

    Raises:
        CheckpointError: as for `load_model`, and where the folder has no VAE.
    """
    index = read_index(path)
    if not set(VAE) <= set(index.components):
        held = ", ".join(index.components) or "nothing"
        raise CheckpointError(f"{index.folder} holds no VAE, only {held}. {nearby_models(index.folder)}")
    _, parts = load_model(path, only=VAE)
    space = LatentSpace(parts["compressor"], parts["expander"], *index.statistics())
    return space.eval().requires_grad_(False)


def as_size(size: int | Sequence[int]) -> tuple[int, int]:
    """Return (height, width) of a side or a pair."""
    height, width = (size, size) if isinstance(size, int) else size
    return int(height), int(width)


def _check_finite(parts: Mapping[str, Any], folder: Path) -> None:
    bad = []
    for name, part in parts.items():
        tensors = part.state_dict().values() if isinstance(part, nn.Module) else [part]
        if not all(tensor.isfinite().all() for tensor in tensors if isinstance(tensor, Tensor)):
            bad.append(name)
    if bad:
        raise NotFiniteError(f"{folder} is not written: numbers of its {', '.join(bad)} are infinite or NaN.")


def _component(component: Any) -> tuple[list[str | None], dict[str, Content]]:
    """Return a component's entry in the index, library and class, and what its files hold."""
    if component is None:
        return [None, None], {}
    if isinstance(component, nn.Module):
        return ["fluxflow.models", type(component).__name__], network_contents(component)
    with TemporaryDirectory() as written:  # save_pretrained writes in place: let it do so elsewhere
        component.save_pretrained(written)
        files = {path.name: text_content(path.read_bytes()) for path in sorted(Path(written).iterdir())
                 if path.is_file()}  # fmt: skip
    return [type(component).__module__.split(".")[0], type(component).__name__], files


def _load_components(index: ModelIndex, names: Sequence[str]) -> dict[str, Any]:
    components = {name: _load_component(name, index) for name in names}
    if "text_encoder" in components:
        components["text_encoder"].tokenizer = components.get("tokenizer")
    if "compressor" in components:
        _check_statistics(index, components["compressor"])
        components["compressor"].latents = index.parameters()
    if not set(VAE) <= set(names):
        return components
    found = vae_hash(components["compressor"], components["expander"], *index.statistics())
    if found != index.vae_hash:
        raise CheckpointError(
            f"The VAE in {index.folder} is not the one that its {INDEX} was written with: files of several models "
            "are mixed there. Export the model again, or copy the whole folder."
        )
    return components


def _check_statistics(index: ModelIndex, compressor: nn.Module) -> None:
    for name, values in (("latent_mean", index.latent_mean), ("latent_std", index.latent_std)):
        if len(values) != compressor.packet_channels:
            raise CheckpointError(
                f"{index.folder / INDEX}: {name} has {len(values)} values for {compressor.packet_channels} channels."
            )


def _load_component(name: str, index: ModelIndex) -> Any:
    folder = index.folder / name
    if not folder.is_dir():
        raise CheckpointError(f"{index.folder / INDEX} names a {name}, but {folder} is missing; copy the whole folder.")
    if name in ("tokenizer", "scheduler"):
        with settled(folder, index.revision) as files:
            return load_words(files) if name == "tokenizer" else load_scheduler(files)
    return load_network(folder, TextEncoder if name == "text_encoder" else CLASSES[name], index.revision)
