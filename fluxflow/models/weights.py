"""One network in one folder: `config.json` (constructor arguments and class name) beside `model.safetensors`.

Only the classes of `NETWORKS` are ever built, from JSON numbers and strings; nothing is unpickled or imported by name.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save
from torch import Tensor, nn

from fluxflow.errors import CheckpointError, reason
from fluxflow.formats import CONFIGS, REVISION, REVISION_RULE
from fluxflow.models.registry import NETWORKS, digest
from fluxflow.revisions import Content, current, publish, text_content
from fluxflow.schema import check, read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"
FLOATS = (torch.float16, torch.bfloat16, torch.float32, torch.float64)


def network_contents(network: nn.Module) -> dict[str, Content]:
    """Return what the files of a network's folder hold, by their names.

    Raises:
        CheckpointError: its class is none of `NETWORKS`.
    """
    name = type(network).__name__
    if name not in NETWORKS:
        raise CheckpointError(f"{name} is not a network that a model folder can hold: {', '.join(sorted(NETWORKS))}.")
    config = {"_class_name": name, **_config_of(network)}
    files = {CONFIG: text_content((json.dumps(config, indent=2) + "\n").encode())}
    return files | {file: _weights(tensors) for file, tensors in _split(name, network.state_dict()).items()}


def save_network(network: nn.Module, folder: str | Path) -> None:
    """Write the weights and constructor arguments of `network` into `folder`, replacing what is there atomically."""
    files = network_contents(network)
    del files[CONFIG]
    publish(Path(folder), files, CONFIG, {"_class_name": type(network).__name__, **_config_of(network)})


def load_network(folder: str | Path, expected: type[nn.Module] = nn.Module, revision: str | None = None) -> nn.Module:
    """Build the network of `folder` and load its weights, strictly and in the types that they have there.

    Args:
        folder: of the network.
        expected: its class.
        revision: that of the model of which it is a part; a folder that stands alone names its own.

    Returns:
        The network in eval mode, on the CPU.

    Raises:
        CheckpointError: a file is missing or damaged, the class is another one or none of `NETWORKS`, the config is
            out of bounds, or the tensors are not the network's own (missing, superfluous and misshapen ones are named).
    """
    folder = Path(folder)
    config = read_json(current(folder / CONFIG, revision))
    if REVISION in config:
        check(config[REVISION], REVISION_RULE, folder / CONFIG)
        revision = config.pop(REVISION)
    name = config.pop("_class_name", None)
    if not isinstance(name, str) or name not in NETWORKS:
        raise CheckpointError(f"{folder / CONFIG} names the class {name!r}; known are {', '.join(sorted(NETWORKS))}.")
    if not issubclass(NETWORKS[name], expected):
        raise CheckpointError(f"{folder} holds a {name} where a {expected.__name__} belongs.")
    check(config, CONFIGS[name], folder / CONFIG)
    tensors: dict[str, Tensor] = {}
    for file in (WEIGHTS, *NETWORKS[name].separate.values()):
        tensors |= read_tensors(current(folder / file, revision))
    _check_fit(NETWORKS[name], config, tensors, folder)
    network = _build(NETWORKS[name], config, folder)
    for key, tensor in network.state_dict(keep_vars=True).items():  # what is loaded takes on the type that is there
        tensor.data = tensor.data.to(tensors[key].dtype)
    network.load_state_dict(tensors)
    network.eval()
    _try(network, folder)
    return network


def read_tensors(path: Path) -> dict[str, Tensor]:
    """Return the tensors of the safetensors file `path`."""
    if not path.is_file():
        raise CheckpointError(f"{path} is missing.")
    try:
        return load_file(path)
    except SafetensorError as error:
        message = f"{path} is truncated or no safetensors file ({error}); copy or export it again."
        raise CheckpointError(message) from error


def _config_of(network: nn.Module) -> dict[str, Any]:
    """Return the constructor arguments without the folder from which transformers once took a backbone's weights."""
    config = network.config
    assert isinstance(config, dict)
    return {
        key: {k: v for k, v in value.items() if k != "_name_or_path"} if isinstance(value, dict) else value
        for key, value in config.items()
    }


def _split(class_name: str, tensors: Mapping[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Return file name → tensors, following `Network.separate`."""
    separate = NETWORKS[class_name].separate
    split: dict[str, dict[str, Tensor]] = {WEIGHTS: {}, **{file: {} for file in separate.values()}}
    for key, tensor in tensors.items():
        split[next((file for prefix, file in separate.items() if key.startswith(prefix)), WEIGHTS)][key] = tensor
    return split


def serialized(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> tuple[bytes, memoryview]:
    """Return tensors as safetensors, header and values; equal ones are equal bytes, as safetensors' own are not.

    Its `save_file` would also make the file private to its writer, whatever the umask.
    """
    content = save({key: tensor.detach().cpu().contiguous() for key, tensor in tensors.items()}, dict(metadata))
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    if metadata:
        header["__metadata__"] = dict(sorted(metadata.items()))  # which it writes in any order
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode().ljust(end - 8)
    return content[:8] + text, memoryview(content)[end:]


def is_whole(path: Path) -> bool:
    """Return whether a file of weights holds the tensors with which it was written."""
    return _digest_of_weights(path) is not None


def _weights(tensors: Mapping[str, Tensor]) -> Content:
    sha = digest(tensors)

    def write(file: BinaryIO) -> None:
        file.writelines(serialized(tensors, {"format": "pt", "sha256": sha}))

    return Content(sha, write, lambda path: _digest_of_weights(path, sha))


def _digest_of_weights(path: Path, expected: str | None = None) -> str | None:
    """Return the digest in the header of `path`, None where the tensors are others, or none can be read.

    Args:
        path: the file.
        expected: what it would have to be: where the header says otherwise, the tensors are not looked at.
    """
    if not path.is_file():
        return None
    try:
        with safe_open(path, framework="pt") as file:
            told = (file.metadata() or {}).get("sha256")
        if expected not in (None, told):
            return None
        return told if digest(load_file(path)) == told else None
    except (SafetensorError, OSError):  # damaged: to be written anew
        return None


def faults_between(
    there: Mapping[str, Sequence[int]], wanted: Mapping[str, Sequence[int]], named: Callable[[str], str] = str
) -> str:
    """Say how tensors differ from those of a network, each fault with its first names; nothing if they do not.

    Args:
        there, wanted: name → shape.
        named: what a message calls a name.
    """
    faults = {
        "missing": [named(name) for name in sorted(set(wanted) - set(there))],
        "superfluous": [named(name) for name in sorted(set(there) - set(wanted))],
        "misshapen": [
            f"{named(name)} {list(there[name])} instead of {list(wanted[name])}"
            for name in sorted(set(there) & set(wanted))
            if tuple(there[name]) != tuple(wanted[name])
        ],
    }
    return "; ".join(f"{fault}: {_some(names)}" for fault, names in faults.items() if names)


def _build(cls: type[nn.Module], config: dict[str, Any], folder: Path) -> nn.Module:
    try:
        return cls(**config)
    except Exception as error:  # whatever a constructor, or transformers, makes of a stranger's sizes
        raise CheckpointError(f"{folder / CONFIG} does not describe a {cls.__name__} ({reason(error)}).") from error


def _try(network: Any, folder: Path) -> None:
    try:
        network.check()
    except Exception as error:  # as above
        raise CheckpointError(f"{folder / CONFIG} cannot be used ({reason(error)}).") from error


def _check_fit(cls: type[nn.Module], config: dict[str, Any], tensors: Mapping[str, Tensor], folder: Path) -> None:
    """Refuse a config that the tensors do not fit, before any memory is taken for it."""
    with torch.device("meta"):
        wanted = _build(cls, config, folder).state_dict()
    there, expected = ({key: tensor.shape for key, tensor in state.items()} for state in (tensors, wanted))
    if faults := faults_between(there, expected):
        raise CheckpointError(f"The tensors in {folder} are not those of its {CONFIG} ({faults}).")
    for key, tensor in tensors.items():
        if tensor.dtype != wanted[key].dtype and not {tensor.dtype, wanted[key].dtype} <= set(FLOATS):
            raise CheckpointError(f"The tensors in {folder} are not those of its {CONFIG} ({key} is {tensor.dtype}).")


def _some(names: list[str], limit: int = 4) -> str:
    more = len(names) - limit
    return ", ".join(names[:limit]) + (f" and {more} more" if more > 0 else "")
