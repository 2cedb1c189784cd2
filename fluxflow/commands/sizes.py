"""Print the number of parameters of each network of a config: `python -m fluxflow.commands.sizes model=default`."""

import sys

from hydra import compose, initialize_config_dir

from fluxflow.commands.build import build, is_network, sketch
from fluxflow.commands.hydra_app import run
from fluxflow.commands.objects import CONFIGS


def sizes(overrides: list[str]) -> dict[str, int]:
    """Return the number of parameters of each network of the config that `overrides` choose; nothing is trained.

    The VAE's and the flow's networks take no memory; the text encoder is loaded.
    """
    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        stages = [compose("train", [*overrides, f"stage={stage}"]) for stage in ("vae", "flow")]
    nodes = {name: node for config in stages for name, node in config.stage.items() if is_network(node)}
    networks = {name: sketch(node) for name, node in nodes.items()}
    networks["text_encoder"] = build(stages[0].text)
    return {
        f"{type(network).__name__} ({name})": sum(parameter.numel() for parameter in network.parameters())
        for name, network in networks.items()
    }


def main(overrides: list[str]) -> None:
    """Print the table for a choice of groups and keys."""
    for name, count in sizes(overrides).items():
        print(f"{name:38} {count:12,}  {count / 1e6:6.1f} M")


if __name__ == "__main__":
    run(lambda: main(sys.argv[1:]))
