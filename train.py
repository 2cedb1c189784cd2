"""Train one stage: `python train.py stage=vae`, then `python train.py stage=flow vae=outputs/vae/<run>`.

Every key of configs/ is set as key=value; `--help` lists the groups, `--cfg job` prints the config, `-m` sweeps.
"""

from fluxflow import signals

if __name__ == "__main__":  # before the imports, which take a second
    signals.handle(signals.leave)

import hydra
from omegaconf import DictConfig

from fluxflow import build, commands


@hydra.main(version_base="1.3", config_path=str(build.CONFIGS), config_name="train")
@commands.job
def main(config: DictConfig) -> None:
    """Train the stage that `config` describes."""
    commands.train(config)


if __name__ == "__main__":
    commands.run(main)
