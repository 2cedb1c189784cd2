"""`python -m fluxflow.data.encode`: the frozen networks of stage 2 over all images and captions once, into a cache.

    python -m fluxflow.data.encode vae=outputs/vae/<run> data=shards data.train=shards/train name=mine

Stage 2 then trains with data=latents data.train=outputs/encode/mine. The same command goes on where it stopped.
"""

from pathlib import Path

import hydra
from omegaconf import DictConfig

from fluxflow.commands.build import build, build_all, checked
from fluxflow.commands.hydra_app import hold, job, reference, run
from fluxflow.commands.objects import CONFIGS


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="encode")
@job
def main(config: DictConfig) -> None:
    """Write the cache that `config` describes."""
    encode(config)


def command() -> None:
    """Run the command; a mistake in its options is one line on stderr."""
    run(main)


def encode(config: DictConfig) -> None:
    """Check `config`, and encode its data with its VAE and text encoder."""
    plain = checked(config, reference())
    hold(Path(config.run_dir))

    from fluxflow.data.streaming.loader import end_workers
    from fluxflow.training.callbacks.record import write_config

    try:
        (data,) = build_all(config, "data")
        build(config.encoder).run(data, build(config.trainer))
        write_config(plain, Path(config.run_dir))
    finally:
        end_workers()
