"""The commands below Hydra: they report a user's mistakes in one line, and a sweep goes on after a failed job."""

import atexit
import functools
import gc
import logging
import os
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

from hydra import compose
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fluxflow import configuration
from fluxflow.build import build, build_training, checked, containers
from fluxflow.errors import ConfigError, FluxFlowError
from fluxflow.runs import find_checkpoint, remove_if_empty

log = logging.getLogger(__name__)
_failed_jobs: list[str] = []


def run(main: Callable[[], None]) -> None:
    """Run a Hydra command; a mistake in its options becomes one line on stderr and exit code 1."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing by itself
    atexit.register(gc.freeze)  # else Python looks through all that torch has made once more, for seconds
    try:
        main()
    except FluxFlowError as error:
        sys.exit(f"error: {error}")
    except (HydraException, OmegaConfBaseException, YAMLError) as error:
        if wants_traceback:
            raise
        sys.exit(f"error: {explain(error)}")
    if _failed_jobs:
        sys.exit(f"error: {len(_failed_jobs)} of the jobs failed: {'; '.join(_failed_jobs)}")


def job(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Wrap the function below `hydra.main`: its FluxFlowErrors become one line, and a sweep outlives a failed job."""

    @functools.wraps(task)
    def reported(config: DictConfig) -> None:
        hydra = HydraConfig.get()
        try:
            task(config)
        except FluxFlowError as error:
            remove_if_empty(Path(hydra.runtime.output_dir))
            print(f"error: {error}", file=sys.stderr)
        except Exception:
            if hydra.mode != RunMode.MULTIRUN:
                raise
            traceback.print_exc()
        else:
            return
        if hydra.mode != RunMode.MULTIRUN:
            sys.exit(1)
        _failed_jobs.append(hydra.job.override_dirname)

    return reported


def explain(error: Exception) -> str:
    """Return what is wrong with a command line, with the nearest valid names."""
    cause = error.__cause__
    origin: BaseException = error
    while origin.__context__ is not None:
        origin = origin.__context__
    if isinstance(origin, FluxFlowError):  # raised while an interpolation was resolved
        return str(origin)
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, value = error.missing_cfg_file.rpartition("/")
        return configuration.unknown_value(group, value, error.options)
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if cause.parent_node is not None and "not in struct" in str(cause):
            root = cause.parent_node._get_root()
            return configuration.unknown_key(cause.full_key, configuration.dotted(containers(root)))
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    return " ".join(str(error).split())


def train(config: DictConfig) -> None:
    """Check `config`, build the run that it describes, train, and exit with 128 + n after signal n."""
    plain = checked(config, _reference())
    if HydraConfig.get().mode == RunMode.MULTIRUN and config.trainer.strategy != "auto":
        raise ConfigError("A sweep (-m) trains its jobs one after the other on one device: take strategy=single.")
    run_dir = Path(config.run_dir)
    checkpoint = find_checkpoint(config.resume, run_dir)
    if checkpoint is None and (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"{run_dir} already holds a run: go on with resume=auto, or give another name=.")

    from fluxflow.data.loader import end_workers

    try:
        if plain["stage"]["_target_"] == configuration.ENCODER:
            build(config.stage).run(build(config.data), plain["trainer"])
            OmegaConf.save(OmegaConf.create(plain), run_dir / "config.yaml")
        else:
            _fit(config, plain, checkpoint)
    finally:
        end_workers()  # of an error, too: a sweep goes on with its next job


def _fit(config: DictConfig, plain: dict[str, Any], checkpoint: Path | None) -> None:
    from fluxflow.checkpoint import read_checkpoint

    if checkpoint is not None:
        content = read_checkpoint(checkpoint)
        configuration.check_same_model(content["config"], plain, checkpoint)
        if content["global_step"] >= config.steps:
            log.info("%s is at step %d already: a larger steps= goes on", checkpoint, content["global_step"])
            return
        log.info("Going on from %s, step %d", checkpoint, content["global_step"])
    training = build_training(config)
    training.trainer.fit(training.module, training.data, ckpt_path=checkpoint, weights_only=True)
    if training.interruption.signal is not None:
        sys.exit(128 + training.interruption.signal)


def _reference() -> DictConfig:
    """Return the config of this job's choice of groups without its other overrides."""
    choices = HydraConfig.get().runtime.choices
    groups = [f"{group}={name}" for group, name in choices.items() if name and not str(group).startswith("hydra/")]
    return compose(HydraConfig.get().job.config_name, overrides=groups)
