"""The config of a run: beside its results, and inside its checkpoints."""

from pathlib import Path
from typing import Any

from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf

from fluxflow.files import replacing


class RunRecord(Callback):
    """Writes `config.yaml`, and puts the config into every checkpoint as plain containers.

    Args:
        config: the resolved config.
        run_dir: the folder of the run.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_config(self.config, self.run_dir)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config


def write_config(config: dict[str, Any], run_dir: Path) -> None:
    """Write a resolved config as `config.yaml` into the folder of its run."""
    with replacing(run_dir / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(config)).encode())
