"""Train one stage: `python train.py stage=vae`, then `python train.py stage=flow vae=outputs/vae/<run>`.

Every key of configs/ is set as key=value; `--help` lists the groups, `--cfg job` prints the config, `-m` sweeps.
"""

from fluxflow import signals

if __name__ == "__main__":  # before the imports, which take a second
    signals.handle(signals.leave)

from fluxflow.commands.train import command

if __name__ == "__main__":
    command()
