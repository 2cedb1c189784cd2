"""`python train.py`, or `fluxflow-train`: train one stage.

    python train.py stage=vae
    python train.py stage=flow vae=outputs/vae/<run>

Every key of configs/ is set as key=value; `--help` lists the groups, `--cfg job` prints the config, `-m` sweeps.
"""

import logging
import math
import sys
from pathlib import Path
from typing import Any

import hydra
from hydra.core.hydra_config import HydraConfig
from hydra.types import RunMode
from omegaconf import DictConfig

from fluxflow.commands import configuration
from fluxflow.commands.build import build_training, checked
from fluxflow.commands.hydra_app import hold, job, reference, run
from fluxflow.commands.objects import CONFIGS
from fluxflow.errors import ConfigError, FluxFlowError
from fluxflow.runs import find_checkpoints

log = logging.getLogger(__name__)
DERIVED = ("resume", "name", "run_dir", "output_dir", "trainer", "callbacks", "logger")  # from other keys, or places


@hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="train")
@job
def main(config: DictConfig) -> float | None:
    """Train the stage that `config` describes; returns what a sweeper that tunes minimises."""
    return train(config)


def command() -> None:
    """Run the command; a mistake in its options is one line on stderr, and a sweep ends with its answer."""
    run(main, after_sweep=answer_sweep)


def answer_sweep(folder: Path) -> None:
    """Say which model of a sweep is best, and write it into its folder."""
    from fluxflow.sweeps.answer import NAME, as_markdown, write_answer

    try:
        print(as_markdown(write_answer([folder])))
        print(f"Written: {folder}/{NAME}.html, .md and .csv")
    except FluxFlowError as error:
        log.warning("The sweep has no answer: %s", error)


def train(config: DictConfig) -> float | None:
    """Check `config`, build the run that it describes, train, and exit with 128 + n after signal n.

    Returns:
        The best value of `callbacks.checkpoints.monitor`, negated where higher is better; None where there is none.
    """
    plain = checked(config, reference())
    if HydraConfig.get().mode == RunMode.MULTIRUN and config.trainer.strategy != "auto":
        raise ConfigError("A sweep (-m) trains its jobs one after the other on one device: take strategy=single.")
    run_dir = Path(config.run_dir)
    hold(run_dir)
    checkpoints = find_checkpoints(config.resume, run_dir)
    if not checkpoints and (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"{run_dir} already holds a run: go on with resume=auto, or give another name=.")

    from fluxflow.data.streaming.loader import end_workers

    try:
        return _fit(config, plain, checkpoints)
    finally:
        end_workers()  # of an error, too: a sweep goes on with its next job


def _fit(config: DictConfig, plain: dict[str, Any], checkpoints: list[Path]) -> float | None:
    from fluxflow.checkpoint.model import is_exported
    from fluxflow.checkpoint.training import read_first_whole
    from fluxflow.training.ema import callbacks_of
    from fluxflow.training.rehearsal import MisconfigurationException

    checkpoint = None
    if checkpoints:
        checkpoint, content = read_first_whole(checkpoints)
        configuration.check_same_model(content["config"], plain, checkpoint)
        step = content["global_step"]
        if step >= config.steps and is_exported(Path(config.run_dir) / "model", step):
            log.info("%s is at step %d already: a larger steps= goes on", checkpoint, step)
            return _finite(content["callbacks"].get("Checkpoints", {}).get("best"))
        log.info("Going on from %s, step %d%s", checkpoint, step, _changes(content["config"], plain))
    training = build_training(config)
    try:
        training.trainer.fit(training.module, training.data, ckpt_path=checkpoint, weights_only=True)
    except MisconfigurationException as error:  # options of the Trainer that exclude each other or this stage
        raise ConfigError(f"trainer: {error}") from error
    if training.interruption.signal is not None:
        sys.exit(128 + training.interruption.signal)
    found = (getattr(callback, "best", None) for callback in callbacks_of(training.trainer))
    return next(filter(None, map(_finite, found)), None)


def _finite(value: float | None) -> float | None:
    return value if value is not None and math.isfinite(value) else None


def _changes(there: dict[str, Any], here: dict[str, Any]) -> str:
    """Return, in words, which keys differ from those with which a checkpoint was saved; nothing if none does."""
    keys = [key for key in configuration.dotted(here) if key.partition(".")[0] not in DERIVED]
    pairs = [(key, configuration.select(there, key), configuration.select(here, key)) for key in keys]
    found = [f"{key} {old} → {new}" for key, old, new in pairs if not isinstance(new, dict) and old != new]
    return f"; otherwise than before: {', '.join(found)}" if found else ""
