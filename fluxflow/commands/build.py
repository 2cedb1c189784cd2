"""From a composed config to the objects of a training run.

torch and Lightning are imported inside functions, so that `--help`, `--cfg job` and completion answer at once.
"""

import logging
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import instantiate
from omegaconf import DictConfig, OmegaConf

from fluxflow.commands import configuration
from fluxflow.commands import run_folders as folders
from fluxflow.commands.objects import check_objects, containers
from fluxflow.commands.values import check_bounds
from fluxflow.errors import ConfigError, FluxFlowError, shorten
from fluxflow.versions import VERSIONS

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

    from fluxflow.training.callbacks.interruption import Interruption

LIGHTNING_CHATTER = (
    ".*LeafSpec.*deprecated",
    ".*in eval mode at the start",
    ".*infer the `batch_size`",
    ".*not resumable",
)
OmegaConf.register_new_resolver("multiply", lambda a, b: a * b)
OmegaConf.register_new_resolver("power", lambda a, b: a**b)
OmegaConf.register_new_resolver("words", lambda version: str(version) in VERSIONS and VERSIONS[str(version)].words)
OmegaConf.register_new_resolver("run_folder", folders.run_folder)
OmegaConf.register_new_resolver("sweep_folder", folders.sweep_folder)
OmegaConf.register_new_resolver("run_name", folders.run_name)
OmegaConf.register_new_resolver("output_folder", folders.output_folder)
OmegaConf.register_new_resolver("job_folder", folders.job_folder)
OmegaConf.register_new_resolver("apart_from_swept", lambda keys: [key for key in keys if key not in _swept()])


@dataclass(frozen=True)
class Training:
    """What one run consists of."""

    module: "LightningModule"
    data: "LightningDataModule"
    trainer: "Trainer"
    interruption: "Interruption"


def checked(config: DictConfig, reference: DictConfig) -> dict[str, Any]:
    """Return `config` as plain containers, interpolations resolved, if it can work.

    Args:
        config: what a user composed.
        reference: the same choice of groups without any other override.

    Raises:
        ConfigError: a key, a value or a combination that cannot work.
        CheckpointError: `config.vae` holds no VAE.
    """
    raw, keys = containers(config), containers(reference)
    configuration.check_keys(raw, keys)
    check_bounds(raw)  # before interpolations compute with them
    plain = resolved(config)
    configuration.check_keys(plain, keys)
    configuration.check_choices(plain)
    configuration.check_combinations(plain)
    check_objects(plain)
    check_bounds(plain)
    configuration.check_sizes(plain)
    return plain


def build_training(config: DictConfig) -> Training:
    """Build the module, the data and the trainer of a checked config."""
    import torch

    from fluxflow.kernels.heap import keep_freed_memory
    from fluxflow.models.compilation import compile_networks
    from fluxflow.training import rehearsal
    from fluxflow.training.callbacks.interruption import Interruption
    from fluxflow.training.callbacks.record import RunRecord

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in LIGHTNING_CHATTER:
        warnings.filterwarnings("ignore", message)
    networks = {name: node for name, node in config.stage.items() if is_network(node)}
    networks.pop("discriminator", None)  # seconds on shapes, for its spectral norms; check_combinations bounds it
    rehearsal.check_memory({name: sketch(node) for name, node in networks.items()})
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"  # convolutions do not ask the line above
    (data,), (module,) = build_all(config, "data"), build_all(config, "stage")
    rehearsal.check_optimizers(module)
    if "image_size" in config.data:  # of cached latents it is known when they are opened
        rehearsal.check_sizes(module, config.data.image_size)
    if config.compile:
        compile_networks(module)
    interruption = Interruption()
    record = RunRecord(resolved(config), Path(config.run_dir))  # first: the report reads what it notes
    callbacks = [record, *build_all(config, "callbacks"), interruption]
    trainer = build(config.trainer, callbacks=callbacks, logger=build_all(config, "logger"))
    keep_freed_memory(trainer.strategy.root_device)
    return Training(module, data, trainer, interruption)


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a config node and what it holds, if each `_target_` is an optimizer or one of the shipped configs.

    Raises:
        ConfigError: a target that is not allowed, or arguments with which it cannot be built.
    """
    check_objects(OmegaConf.to_container(node, resolve=True), node._get_full_key(None))
    try:
        return instantiate(node, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__ or error
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, FluxFlowError):
            raise cause from None
        named = re.search(r"full_key: (\S+)", str(error))
        key = named[1] if named else str(node._get_full_key(None))
        raise ConfigError(f"{key} cannot be built{_settings(node, key)}: {shorten(str(cause), 400)}") from error


def build_all(config: DictConfig, key: str) -> list[Any]:
    """Build the object of a part of a config, or those that it holds; what is null or absent is left out.

    Raises:
        ConfigError: one cannot be built, or is of no use there.
    """
    from fluxflow.training.rehearsal import check_kind

    node = OmegaConf.select(config, key)
    if node is None:
        return []
    built = {key: build(node)}
    if "_target_" not in node:
        built = {f"{key}.{name}": one for name, one in built[key].items() if one is not None}
    for name, one in built.items():
        check_kind(name, one)
    return list(built.values())


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain containers with every interpolation resolved."""
    return containers(config, resolve=True)


def sketch(node: DictConfig) -> Any:
    """Build a network whose weights have shapes alone and take no memory."""
    import torch

    with torch.device("meta"), torch.random.fork_rng(devices=[]):
        return build(node)


def _swept() -> set[str]:
    """Return the keys that the command line gives several values: these alone tell the jobs of a sweep apart."""
    parser, swept = OverridesParser.create(), set()
    for argument in sys.argv[1:]:
        with suppress(HydraException):  # an option, or what another program than ours was called with
            override = parser.parse_override(argument)
            swept |= {override.key_or_group} if override.is_sweep_override() else set()
    return swept


def _settings(node: DictConfig, key: str) -> str:
    """Return which keys of `model` the arguments of an object come from, and their values."""
    found = OmegaConf.select(node._get_root(), key)
    raw = containers(found) if isinstance(found, DictConfig) else {}
    keys = [match[1] for value in raw.values() if (match := re.fullmatch(r"\$\{(model\.\w+)\}", str(value)))]
    values = (f"{name}={OmegaConf.select(node._get_root(), name)}" for name in keys)
    return f" with {', '.join(values)}" if keys else ""


def is_network(node: Any) -> bool:
    target = node.get("_target_", "") if isinstance(node, DictConfig) else ""
    return target.startswith("fluxflow.models.") and not target.endswith("TextEncoder")
