"""From a composed config to a training run: the one module of the package that knows Hydra.

torch and Lightning are imported inside functions, so that `--help`, `--cfg job` and completion answer at once.
`python -m fluxflow.build sizes model=default` prints the number of parameters of each network.
"""

import functools
import os
import re
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.hydra_config import HydraConfig
from hydra.errors import ConfigCompositionException, HydraException, InstantiationException, MissingConfigException
from hydra.types import RunMode
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from fluxflow import configuration
from fluxflow.errors import ConfigError, FluxFlowError
from fluxflow.runs import find_checkpoint

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

CONFIGS = Path(__file__).parents[1] / "configs"
OPTIMIZER = re.compile(r"torch\.optim\.[A-Z]\w*")
USER_MISTAKES = (TypeError, ValueError, ImportError)

OmegaConf.register_new_resolver("multiply", lambda a, b: a * b)
OmegaConf.register_new_resolver("run_folder", configuration.run_folder)

_failed_jobs: list[str] = []


def run(main: Callable[[], None]) -> None:
    """Run a Hydra command; a mistake in its options becomes one line on stderr and exit code 1."""
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing by itself
    try:
        main()
    except (HydraException, OmegaConfBaseException) as error:
        if wants_traceback:
            raise
        sys.exit(f"error: {explain(error)}")
    if _failed_jobs:
        sys.exit(f"error: {len(_failed_jobs)} of the jobs failed: {'; '.join(_failed_jobs)}")


def job(task: Callable[[DictConfig], None]) -> Callable[[DictConfig], None]:
    """Wrap the function below `hydra.main`: its FluxFlowErrors become one line, and a sweep goes on after a failed job."""

    @functools.wraps(task)
    def reported(config: DictConfig) -> None:
        hydra = HydraConfig.get()
        try:
            task(config)
        except FluxFlowError as error:
            _remove_if_empty(Path(hydra.runtime.output_dir))
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
            known = OmegaConf.to_container(cause.parent_node._get_root(), resolve=False)
            return configuration.unknown_key(cause.full_key, configuration.dotted(known))
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    return str(error).strip()


@dataclass(frozen=True)
class Training:
    """What one run consists of."""

    module: "LightningModule"
    data: "LightningDataModule"
    trainer: "Trainer"


def train(config: DictConfig) -> None:
    """Check `config`, build the run that it describes, train, and exit with 128 + n after signal n."""
    plain = resolved(config)
    configuration.check(plain, resolved(_reference()))
    run_dir = Path(config.run_dir)
    checkpoint = find_checkpoint(config.resume, run_dir)
    if checkpoint is None and (run_dir / "checkpoints").is_dir():
        raise ConfigError(f"{run_dir} already holds a run: go on with resume=auto, or give another name=.")

    from fluxflow.checkpoint import read_checkpoint
    from fluxflow.training.callbacks import Interruption

    if checkpoint is not None:
        configuration.check_same_model(read_checkpoint(checkpoint)["config"], plain, checkpoint)
    training = build_training(config)
    training.trainer.fit(training.module, training.data, ckpt_path=checkpoint)
    stopped = next(c.signal for c in training.trainer.callbacks if isinstance(c, Interruption))
    if stopped is not None:
        sys.exit(128 + stopped)


def build_training(config: DictConfig) -> Training:
    """Build the module, the data and the trainer of a checked config."""
    import torch
    from lightning import seed_everything

    from fluxflow.training.callbacks import Interruption, RunRecord

    seed_everything(config.seed, workers=True)
    torch.set_float32_matmul_precision(config.matmul_precision)
    data, module = build(config.data), build(config.stage)
    callbacks = [callback for callback in build(config.callbacks).values() if callback is not None]
    callbacks += [RunRecord(resolved(config), Path(config.run_dir)), Interruption()]
    loggers = [logger for logger in build(config.logger).values() if logger is not None]
    return Training(module, data, build(config.trainer, callbacks=callbacks, logger=loggers))


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a config node, nested objects included, if every `_target_` is one of the shipped configs' or an optimizer.

    Raises:
        ConfigError: a target that is not allowed, or arguments that its constructor refuses.
    """
    shipped = shipped_targets()
    for target in _targets(OmegaConf.to_container(node, resolve=True)):
        if target not in shipped and not OPTIMIZER.fullmatch(target):
            raise ConfigError(configuration.unknown_value("_target_", target, sorted(shipped)))
    try:
        return instantiate(node, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, FluxFlowError):
            raise cause from error
        if cause is None or isinstance(cause, USER_MISTAKES):
            raise ConfigError(" ".join(str(error).split())) from error
        raise


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain containers with every interpolation resolved."""
    container = OmegaConf.to_container(config, resolve=True)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Return every `_target_` of the shipped configs: what a config may instantiate, optimizers of torch aside."""
    texts = (file.read_text(encoding="utf-8") for file in CONFIGS.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_:\s*([\w.]+)", text))


def sizes(overrides: list[str]) -> dict[str, int]:
    """Return the number of parameters of each network of the config that `overrides` choose; nothing is allocated."""
    raise NotImplementedError(overrides)


def _reference() -> DictConfig:
    """Return the config of this job's choice of groups without its other overrides."""
    choices = HydraConfig.get().runtime.choices
    groups = [f"{group}={name}" for group, name in choices.items() if name and not str(group).startswith("hydra/")]
    return compose(HydraConfig.get().job.config_name, overrides=groups)


def _targets(node: Any) -> list[str]:
    children = node.values() if isinstance(node, dict) else node if isinstance(node, list) else ()
    own = [str(node["_target_"])] if isinstance(node, dict) and "_target_" in node else []
    return own + [target for child in children for target in _targets(child)]


def _remove_if_empty(folder: Path) -> None:
    if folder.is_dir() and folder != Path.cwd() and not any(folder.iterdir()):
        folder.rmdir()
