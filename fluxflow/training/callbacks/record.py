"""What a run is and how it went: its config, beside its results and in its checkpoints, and when it began and ended."""

import logging
import platform
import re
import shlex
import sys
from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer
from omegaconf import OmegaConf
from torch import nn

from fluxflow import __version__
from fluxflow.errors import StorageError, reason
from fluxflow.files import replacing
from fluxflow.json_lines import append_line
from fluxflow.models.network import Network

HISTORY = "history.jsonl"

log = logging.getLogger(__name__)


class RunRecord(Callback):
    """Writes `config.yaml`, puts the config into every checkpoint, and notes in `history.jsonl` when the run worked.

    A line of `history.jsonl` is one start (command, step, versions, hardware, parameters) or one end (step, and why, if
    it was an error). A start without an end is a run that works still, or that was killed.

    Args:
        config: the resolved config.
        run_dir: the folder of the run.
    """

    def __init__(self, config: dict[str, Any], run_dir: Path) -> None:
        self.config = config
        self.run_dir = run_dir
        self._parameters: dict[str, list[int]] = {}
        self._began = False

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._parameters = parameter_counts(pl_module)  # before a strategy spreads them over ranks

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if trainer.is_global_zero:
            write_config(self.config, self.run_dir)

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._began = True
        versions = {"fluxflow": __version__, "torch": torch.__version__, "python": platform.python_version()}
        hardware = {"device": device_name(pl_module.device), "devices": trainer.world_size}
        settings = {"precision": str(trainer.precision), "parameters": self._parameters}
        self._note(trainer, "start", {"command": command_line(sys.argv)} | versions | hardware | settings)

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._note(trainer, "end", {"steps": trainer.max_steps})

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        if self._began:
            self._note(trainer, "end", {"steps": trainer.max_steps, "error": reason(exception)})

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        checkpoint["config"] = self.config

    def _note(self, trainer: Trainer, event: str, what: Mapping[str, Any]) -> None:
        if not trainer.is_global_zero:
            return
        now = datetime.now().astimezone().isoformat(timespec="seconds")
        try:
            append_line(self.run_dir / HISTORY, {"event": event, "time": now, "step": trainer.global_step, **what})
        except StorageError as error:
            log.warning("%s The run goes on without this line.", error)


def write_config(config: dict[str, Any], run_dir: Path) -> None:
    """Write a resolved config as `config.yaml` into the folder of its run."""
    with replacing(run_dir / "config.yaml") as file:
        file.write(OmegaConf.to_yaml(OmegaConf.create(config)).encode())


def parameter_counts(module: nn.Module) -> dict[str, list[int]]:
    """Return, of each network below `module`, the number of all parameters and of those that are trained."""
    networks = {name.rpartition(".")[2]: one for name, one in module.named_modules() if isinstance(one, Network)}
    return {
        name: [sum(p.numel() for p in one.parameters() if p.requires_grad or every) for every in (True, False)]
        for name, one in networks.items()
    }


def command_line(arguments: list[str]) -> str:
    """Return a command as it can be typed, from `sys.argv`."""
    program = Path(arguments[0]).name
    return shlex.join([*(["python"] if program.endswith(".py") else []), program, *arguments[1:]])


def device_name(device: torch.device) -> str:
    """Return what a GPU is called, or the model of the CPU and how many threads torch takes of it."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    if device.type != "cpu":
        return device.type
    info = Path("/proc/cpuinfo")
    models = re.findall(r"model name\s*: (.*)", info.read_text()) if info.is_file() else []
    return f"{models[0] if models else platform.machine()}, {torch.get_num_threads()} threads"
