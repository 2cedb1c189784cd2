"""Published checkpoints as their tools write them, made of the recorded weights."""

from collections.abc import Sequence
from functools import cache
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from tests import golden, pipelines

DIFFUSER = ("compressor", "expander", "flow_processor")
TEXT = Path(__file__).parent / "fixtures" / "text.safetensors"


@cache
def text_vectors() -> dict[str, Tensor]:
    """What benchmarks/peer.py recorded: text_encoder.…, in.latents, out.text and out.picture."""
    return load_file(TEXT)


def text_state(backbone: bool = True) -> dict[str, Tensor]:
    state = {key: tensor for key, tensor in text_vectors().items() if key.startswith("text_encoder.")}
    return {key: tensor for key, tensor in state.items() if backbone or ".language_model." not in key}


def state(version: str, prefix: str = "diffuser.", components: Sequence[str] = DIFFUSER) -> dict[str, Tensor]:
    """The tensors of a checkpoint under their published keys."""
    return {
        f"{prefix}{component}.{key}": tensor
        for component in components
        for key, tensor in golden.parameters(component, version).items()
    }


def write(path: Path, tensors: dict[str, Tensor], **header: str) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=header or None)
    return path


def write_folder(folder: Path, version: str = "0.6.0", weights: str = "flxflow_final.safetensors") -> Path:
    """A folder as fluxflow-training leaves it."""
    write(folder / weights, state(version))
    write(folder / "text_encoder.safetensors", text_state())
    return folder


def write_tokenizer(folder: Path) -> str:
    pipelines.tokenizer().save_pretrained(folder)
    return str(folder)
