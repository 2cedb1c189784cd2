"""Draw with a trained model: `python sample.py run=outputs/flow/<run> prompts='["a red dress"]' seeds=[0,1]`.

The run of a VAE gives pictures beside their reconstructions. `--help` lists every key.
"""

from fluxflow import signals

if __name__ == "__main__":  # before the imports, which take a second
    signals.handle(signals.leave)

import hydra
from omegaconf import DictConfig

from fluxflow import build, commands
from fluxflow.runs import check_model


@hydra.main(version_base="1.3", config_path="configs", config_name="sample")
@commands.job
def main(config: DictConfig) -> None:
    """Draw what `config` asks for."""
    check_model(config.run)  # refused before torch is imported, which takes seconds
    from fluxflow.drawing import Drawing, draw

    draw(Drawing.from_config(build.resolved(config)))


if __name__ == "__main__":
    commands.run(main)
