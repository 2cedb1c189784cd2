"""From a composed config to the objects of a training run.

torch and Lightning are imported inside functions, so that `--help`, `--cfg job` and completion answer at once.
`python -m fluxflow.build sizes model=default` prints the number of parameters of each network.
"""

import functools
import inspect
import logging
import re
import sys
import warnings
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from hydra import compose, initialize_config_dir
from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.errors import HydraException, InstantiationException
from hydra.utils import get_object, instantiate
from omegaconf import DictConfig, OmegaConf

from fluxflow import configuration
from fluxflow.errors import ConfigError

if TYPE_CHECKING:
    from lightning import LightningDataModule, LightningModule, Trainer

    from fluxflow.training.callbacks import Interruption

CONFIGS = Path(__file__).parents[1] / "configs"
OPTIMIZER = re.compile(r"torch\.optim\.[A-Z]\w*")
LIGHTNING_CHATTER = (
    ".*LeafSpec.*deprecated",
    ".*in eval mode at the start",
    ".*infer the `batch_size`",
    ".*not resumable",
)
USER_MISTAKES = (TypeError, ValueError, ImportError)

OmegaConf.register_new_resolver("multiply", lambda a, b: a * b)
OmegaConf.register_new_resolver("power", lambda a, b: a**b)
OmegaConf.register_new_resolver("run_folder", configuration.run_folder)
OmegaConf.register_new_resolver("sweep_folder", configuration.sweep_folder)
OmegaConf.register_new_resolver("job_folder", configuration.job_folder)
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
    configuration.check_keys(containers(config), containers(reference))
    configuration.check_ranges(containers(config))
    plain = resolved(config)
    configuration.check_combinations(plain)
    return plain


def build_training(config: DictConfig) -> Training:
    """Build the module, the data and the trainer of a checked config."""
    import torch

    from fluxflow.training.callbacks import Interruption, RunRecord
    from fluxflow.training.compilation import compile_networks

    logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
    for message in LIGHTNING_CHATTER:
        warnings.filterwarnings("ignore", message)
    torch.manual_seed(config.seed)
    torch.set_float32_matmul_precision(config.matmul_precision)
    torch.backends.cudnn.allow_tf32 = config.matmul_precision != "highest"  # convolutions do not ask the line above
    data, module = build(config.data), build(config.stage)
    if config.compile:
        compile_networks(module)
    callbacks = [callback for callback in build(config.callbacks).values() if callback is not None]
    interruption = Interruption()
    callbacks += [RunRecord(resolved(config), Path(config.run_dir)), interruption]
    loggers = [logger for logger in build(config.logger).values() if logger is not None]
    trainer = build(config.trainer, callbacks=callbacks, logger=loggers)
    return Training(module, data, trainer, interruption)


def build(node: DictConfig, **arguments: Any) -> Any:
    """Instantiate a config node and what it holds, if each `_target_` is an optimizer or one of the shipped configs.

    Raises:
        ConfigError: a target that is not allowed, or arguments that its constructor refuses.
    """
    for key, found in _objects(OmegaConf.to_container(node, resolve=True), node._get_full_key(None)):
        _check_object(key, found)
    try:
        return instantiate(node, **arguments, _convert_="all")
    except InstantiationException as error:
        cause = error.__cause__
        while isinstance(cause, InstantiationException) and cause.__cause__ is not None:
            cause = cause.__cause__
        if isinstance(cause, USER_MISTAKES):
            key = re.search(r"full_key: (\S+)", str(error))
            raise ConfigError(f"{key[1] if key else node._get_full_key(None)}: {cause}") from error
        raise (cause or error) from None


def resolved(config: DictConfig) -> dict[str, Any]:
    """Return a config as plain containers with every interpolation resolved."""
    return containers(config, resolve=True)


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Return every `_target_` of the shipped configs: what a config may instantiate, optimizers of torch aside."""
    texts = (file.read_text(encoding="utf-8") for file in CONFIGS.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_:\s*([\w.]+)", text))


def sizes(overrides: list[str]) -> dict[str, int]:
    """Return the number of parameters of each network of the config that `overrides` choose; nothing is trained.

    The VAE's and the flow's networks take no memory; the text encoder is loaded.
    """
    import torch

    with initialize_config_dir(str(CONFIGS), version_base="1.3"):
        stages = [compose("train", [*overrides, f"stage={stage}"]) for stage in ("vae", "flow")]
    with torch.device("meta"):
        nodes = {name: node for config in stages for name, node in config.stage.items() if _is_network(node)}
        networks = {name: build(node) for name, node in nodes.items()}
    networks["text_encoder"] = build(stages[0].text)
    return {
        f"{type(network).__name__} ({name})": sum(parameter.numel() for parameter in network.parameters())
        for name, network in networks.items()
    }


def containers(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}


def _swept() -> set[str]:
    """Return the keys that the command line gives several values: these alone tell the jobs of a sweep apart."""
    parser, swept = OverridesParser.create(), set()
    for argument in sys.argv[1:]:
        with suppress(HydraException):  # an option, or what another program than ours was called with
            override = parser.parse_override(argument)
            swept |= {override.key_or_group} if override.is_sweep_override() else set()
    return swept


def _objects(node: Any, key: str) -> list[tuple[str, dict[str, Any]]]:
    """Return the objects that a node describes, each with its dotted key, itself first."""
    if isinstance(node, list):
        return [found for index, child in enumerate(node) for found in _objects(child, f"{key}[{index}]")]
    if not isinstance(node, dict):
        return []
    children = [found for name, child in node.items() for found in _objects(child, f"{key}.{name}" if key else name)]
    return [(key, node), *children] if "_target_" in node else children


def _check_object(key: str, node: dict[str, Any]) -> None:
    target = str(node["_target_"])
    if target not in shipped_targets() and not OPTIMIZER.fullmatch(target):
        raise ConfigError(configuration.unknown_value(f"{key}._target_", target, sorted(shipped_targets())))
    parameters = inspect.signature(get_object(target)).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return
    for name in node:
        if name not in parameters and not name.startswith("_"):
            raise ConfigError(configuration.unknown_key(f"{key}.{name}", [f"{key}.{known}" for known in parameters]))


def _is_network(node: Any) -> bool:
    target = node.get("_target_", "") if isinstance(node, DictConfig) else ""
    return target.startswith("fluxflow.models.") and not target.endswith("BertTextEncoder")


def main(arguments: list[str]) -> None:
    """Print the table of `python -m fluxflow.build sizes [override …]`."""
    if arguments[:1] != ["sizes"]:
        sys.exit("usage: python -m fluxflow.build sizes [model=default …]")
    for name, count in sizes(arguments[1:]).items():
        print(f"{name:38} {count:12,}  {count / 1e6:6.1f} M")


if __name__ == "__main__":
    from fluxflow.commands import run

    run(lambda: main(sys.argv[1:]))
