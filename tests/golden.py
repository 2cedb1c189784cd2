"""The recorded vectors of the published package, and its state dicts under our names.

What differs: a layer that feeds a Bézier curve has its rows in planes here and in groups of five neighbours there
(their row 5·c + k is our row k·C + c), spectral norm is the parametrization of torch, not the older hook, and the
expander's blocks are one level higher.
"""

import json
from itertools import pairwise
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxflow.models.activations import BezierActivation

PATH = Path(__file__).parent / "fixtures" / "v0.3.0.safetensors"
RENAMED = {
    "upscale.layers.": "upscale.",
    "weight_orig": "parametrizations.weight.original",
    "weight_u": "parametrizations.weight.0._u",
    "weight_v": "parametrizations.weight.0._v",
}


def vectors() -> dict[str, Tensor]:
    """All recorded tensors: param.…, in.… and out.…"""
    return load_file(PATH)


def arguments(component: str) -> dict:
    """What the published constructor of the component was given."""
    with safe_open(PATH, "pt") as file:
        return json.loads(file.metadata()["kwargs"])[component]


def load(network: nn.Module, component: str) -> nn.Module:
    """Fills the network with the published weights of the component, strictly, and returns it in eval mode."""
    prefix = f"param.{component}."
    state = {key.removeprefix(prefix): value for key, value in vectors().items() if key.startswith(prefix)}
    for old, new in RENAMED.items():
        state = {key.replace(old, new): value for key, value in state.items()}
    for name, module in network.named_modules():
        if isinstance(module, nn.Sequential):
            for (child, layer), (_, following) in pairwise(module.named_children()):
                if isinstance(following, BezierActivation):
                    for key in (f"{name}.{child}.weight", f"{name}.{child}.bias"):
                        if key in state:
                            transposed = isinstance(layer, nn.ConvTranspose2d) and key.endswith("weight")
                            state[key] = planar(state[key], 1 if transposed else 0)
    network.load_state_dict(state)
    return network.eval()


def planar(rows: Tensor, dim: int) -> Tensor:
    """From groups of five neighbours to five planes along `dim`."""
    return rows.unflatten(dim, (-1, 5)).transpose(dim, dim + 1).flatten(dim, dim + 1)
