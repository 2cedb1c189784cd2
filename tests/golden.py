"""The recorded vectors of the published packages, one file a version, and networks filled from them."""

import json
from functools import cache
from pathlib import Path

from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor, nn

from fluxflow.published.keys import counterparts, derived

VERSIONS = ("0.3.0", "0.6.0", "0.7.0", "0.8.0")
RECORDED_AS = {"flow_processor": "flow"}  # component → its name in the files, where that differs


def path(version: str = "0.3.0") -> Path:
    return Path(__file__).parent / "fixtures" / f"v{version}.safetensors"


@cache
def vectors(version: str = "0.3.0") -> dict[str, Tensor]:
    """All recorded tensors: param.…, in.… and out.…"""
    return load_file(path(version))


def arguments(component: str, version: str = "0.3.0") -> dict:
    """What the constructor of the component takes, the version aside that of the published one."""
    with safe_open(path(version), "pt") as file:
        recorded = json.loads(file.metadata()["kwargs"])[RECORDED_AS.get(component, component)]
    layout = {"layout": "published"} if component == "flow_processor" else {}
    return recorded | layout | {"version": version}


def parameters(component: str, version: str = "0.3.0") -> dict[str, Tensor]:
    """The published state dict of the component."""
    prefix = f"param.{RECORDED_AS.get(component, component)}."
    return {key.removeprefix(prefix): tensor for key, tensor in vectors(version).items() if key.startswith(prefix)}


def load(network: nn.Module, component: str, version: str = "0.3.0") -> nn.Module:
    """Fills the network with the published weights of the component, strictly, and returns it in eval mode."""
    recorded, wanted = parameters(component, version), counterparts(component, network)
    assert set(recorded) == set(wanted) | set(derived(network))
    network.load_state_dict({part.ours: part.read(recorded[name]) for name, part in wanted.items()})
    return network.eval()


def assert_near(value: Tensor, expected: Tensor, tolerance: float = 2e-5) -> None:
    """Within a fraction of the largest expected value."""
    assert value.shape == expected.shape
    assert float((value - expected).abs().max()) <= tolerance * float(expected.abs().max())
