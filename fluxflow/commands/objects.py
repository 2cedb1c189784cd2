"""What a config may instantiate, and whether its arguments fit: asked of the constructors themselves."""

import functools
import inspect
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, get_args, get_origin, get_type_hints

from hydra.utils import get_object
from omegaconf import DictConfig, OmegaConf

from fluxflow.commands import configuration
from fluxflow.commands.values import check_value
from fluxflow.errors import ConfigError

PACKAGE = Path(__file__).parents[1]
# A clone has them beside the package, a wheel inside it.
CONFIGS = next(found for found in (PACKAGE / "configs", PACKAGE.parent / "configs") if found.is_dir())
HYDRAS = {"_partial_": bool, "_recursive_": bool, "_convert_": str, "_args_": list}  # what `instantiate` reads itself


def check_objects(container: Any, key: str = "") -> None:
    """Refuse objects that a config may not have, and arguments that they do not take.

    Args:
        container: what a node holds, interpolations resolved.
        key: of the node, dotted.
    """
    for name, found in _objects(container, key):
        _check_object(name, found)


@functools.cache
def shipped_targets() -> frozenset[str]:
    """Return every `_target_` of the shipped configs: what a config may instantiate, optimizers of torch aside."""
    texts = (file.read_text(encoding="utf-8") for file in CONFIGS.rglob("*.yaml"))
    return frozenset(name for text in texts for name in re.findall(r"_target_:\s*([\w.]+)", text))


@functools.cache
def _optimizers() -> frozenset[str]:
    import torch.optim  # here alone: it takes seconds

    found = vars(torch.optim).items()
    return frozenset(
        f"torch.optim.{name}"
        for name, made in found
        if inspect.isclass(made) and issubclass(made, torch.optim.Optimizer) and made is not torch.optim.Optimizer
    )


def is_allowed(target: str) -> bool:
    """Return whether a config may instantiate `target`."""
    return target in shipped_targets() or target in _optimizers()


def arguments_of(target: str) -> dict[str, inspect.Parameter]:
    """Return the arguments of an object that a config may have, annotations resolved; {} for one that takes any."""
    function = get_object(target)
    parameters = inspect.signature(function).parameters
    if any(parameter.kind == parameter.VAR_KEYWORD for parameter in parameters.values()):
        return {}
    hints = _hints(function.__init__ if inspect.isclass(function) else function)
    return {name: parameter.replace(annotation=hints.get(name, Any)) for name, parameter in parameters.items()}


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
    if not is_allowed(target):
        valid = _optimizers() if target.startswith("torch.optim.") else shipped_targets()
        raise ConfigError(configuration.unknown_value(f"{key}._target_", target, sorted(valid)))
    arguments = arguments_of(target)
    for name, value in node.items():
        if name in HYDRAS:
            check_value(f"{key}.{name}", value, HYDRAS[name])
        if name.startswith("_") or not arguments:
            continue
        if name not in arguments:
            below = {known: node.get(known) for known in arguments}
            raise ConfigError(configuration.unknown_key(f"{key}.{name}", configuration.dotted(below, f"{key}.")))
        check_value(f"{key}.{name}", value, arguments[name].annotation)
        if isinstance(value, dict) and is_allowed(str(value.get("_target_"))):
            _check_class(f"{key}.{name}", value, arguments[name].annotation)
    for name, argument in arguments.items():
        if argument.default is argument.empty and name not in node and not node.get("_partial_"):
            raise ConfigError(f"{key}.{name} is missing: {target} needs it.")


def _check_class(key: str, node: dict[str, Any], hint: Any) -> None:
    """Refuse an object of another class than an argument takes, or one where it takes a function that makes it."""
    partial = get_origin(hint) is Callable
    if bool(node.get("_partial_")) != partial:
        raise ConfigError(f"{key}._partial_ must be {'true' if partial else 'false'} here.")
    function = get_object(str(node["_target_"]))
    expected, made = (get_args(hint)[-1] if partial else hint), _hints(function).get("return", function)
    if expected is Any or not inspect.isclass(expected) or not inspect.isclass(made):
        return
    methods = [name for name in vars(expected) if not name.startswith("_")]
    protocol = getattr(expected, "_is_protocol", False)
    if not (all(hasattr(made, name) for name in methods) if protocol else issubclass(made, expected)):
        raise ConfigError(f"{key} must be a {expected.__name__}, not a {made.__name__}.")


def _hints(function: Any) -> dict[str, Any]:
    """Return the annotations of a function; names that are imported for type checkers alone count as Any."""
    unknown: dict[str, Any] = {}
    while True:
        try:
            return get_type_hints(function, localns=unknown)
        except NameError as error:
            unknown[str(error.name)] = Any


def containers(config: DictConfig, resolve: bool = False) -> dict[str, Any]:
    container = OmegaConf.to_container(config, resolve=resolve)
    assert isinstance(container, dict)
    return {str(key): value for key, value in container.items()}
