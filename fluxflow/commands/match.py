"""Widths at which plain activations cost what a Bézier curve costs: `python -m fluxflow.commands.match stage=flow`.

For each activation it prints the `model.expansion` at which the networks of the config, compressor and expander or the
flow, have as many parameters, take as many floating-point operations, or take as long for a step as they do now.
"""

import statistics
import sys
import time
from collections.abc import Callable
from typing import Any

import torch
from hydra import compose, initialize_config_dir
from omegaconf import DictConfig, OmegaConf
from torch import Tensor, nn

from fluxflow.commands.build import build, sketch
from fluxflow.commands.hydra_app import run
from fluxflow.commands.objects import CONFIGS
from fluxflow.errors import ConfigError
from fluxflow.models.activations import CHOICES
from fluxflow.training.flops import counted
from fluxflow.versions import version_of

NETWORKS = {"vae": ("compressor", "expander"), "flow": ("flow_processor",)}
WORDS = 16  # tokens of a caption
COMPARED, ROUNDS = (1.0, 3.0), 7  # expansions through which the line goes, and timed steps of each
Arm = tuple[str, float]  # activation and expansion
WANTED = ("as configured", 0.0)


def match(overrides: list[str]) -> dict[str, dict[str, float]]:
    """Return the matching `model.expansion` of each activation, by what is matched.

    Raises:
        ConfigError: a config whose activation is no choice.
    """
    config = _composed(overrides)
    if not version_of(str(config.model.version)).words:
        raise ConfigError(f"model.version={config.model.version} has no choice of activations: take model.version=1.0.")
    arms = {(name, factor): _arm(config, name, factor) for name in CHOICES for factor in COMPARED}
    arms[WANTED] = config
    costs = {
        "parameters": {key: parameters(arm) for key, arm in arms.items()},
        "operations": {key: operations(arm) for key, arm in arms.items()},
        "time": times(arms),
    }
    return {what: _expansions(of_arms) for what, of_arms in costs.items()}


def parameters(config: DictConfig) -> float:
    """Of compressor and expander, or of the flow."""
    return sum(p.numel() for network in _networks(config, sketch).values() for p in network.parameters())


def operations(config: DictConfig) -> float:
    """Floating-point operations of a forward and a backward of these, as `fluxflow.training.flops` counts them."""
    with torch.device("meta"):
        return counted(_step(config, _networks(config, sketch)))


def times(arms: dict[Arm, DictConfig]) -> dict[Arm, float]:
    """Seconds of a forward and a backward of each arm, the median of some, all taken in turns."""
    steps = {key: _step(arm, _networks(arm, build)) for key, arm in arms.items()}
    taken: dict[Arm, list[float]] = {key: [] for key in steps}
    for number in range(ROUNDS + 1):
        for key, step in steps.items():
            begun = time.perf_counter()
            step()
            if number:  # the first warms up
                taken[key].append(time.perf_counter() - begun)
    return {key: statistics.median(values) for key, values in taken.items()}


def _expansions(costs: dict[Arm, float]) -> dict[str, float]:
    """Where the line through the costs of two widths meets the cost that is wanted: they grow evenly with the width."""
    low, high = COMPARED
    slopes = {name: (costs[name, high] - costs[name, low]) / (high - low) for name in CHOICES}
    return {name: low + (costs[WANTED] - costs[name, low]) / slope for name, slope in slopes.items()}


def _composed(overrides: list[str]) -> DictConfig:
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        return compose("train", overrides)


def _arm(config: DictConfig, activation: str, expansion: float) -> DictConfig:
    """The same networks with another activation and width."""
    model = {"model": {"activation": activation, "expansion": expansion}}
    return OmegaConf.merge(config, model)  # type: ignore[return-value]


def _networks(config: DictConfig, make: Callable[[DictConfig], Any]) -> dict[str, nn.Module]:
    stage = "vae" if "compressor" in config.stage else "flow"
    return {name: make(config.stage[name]).train() for name in NETWORKS[stage]}


def _step(config: DictConfig, networks: dict[str, nn.Module]) -> Callable[[], None]:
    """A forward and a backward with a batch of the config's size."""
    batch, side, model = config.data.batch_size, config.data.image_size, config.model
    latent = side // 2**model.downscales
    device = next(networks[next(iter(networks))].parameters()).device

    def loss() -> Tensor:
        if "compressor" in networks:
            packed, _, _ = networks["compressor"](torch.zeros(batch, 3, side, side, device=device), training=True)
            return networks["expander"](packed, latent_size=(latent, latent)).sum()
        packed = torch.zeros(batch, latent**2 + 1, model.vae_dim, device=device)
        text = torch.ones(batch, 1 + WORDS, model.text_dim, device=device)
        return networks["flow_processor"](packed, text, torch.zeros(batch, device=device), (latent, latent)).sum()

    def step() -> None:
        loss().backward()

    return step


def main(overrides: list[str]) -> None:
    """Print the table for a choice of groups and keys."""
    found = match(overrides)
    print(f"{'model.expansion at equal':26}" + "".join(f"{what:>12}" for what in found))
    for name in CHOICES:
        print(f"{'model.activation=' + name:26}" + "".join(f"{values[name]:12.3f}" for values in found.values()))


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
