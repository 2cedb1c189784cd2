"""The command line below Hydra: texts kept as they are typed, and sentences for what Hydra cannot compose."""

from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import ConfigCompositionException, HydraException, MissingConfigException, OverrideParseException
from omegaconf import DictConfig
from omegaconf.errors import OmegaConfBaseException

from fluxflow.commands import configuration
from fluxflow.commands.objects import CONFIGS, arguments_of, containers, is_allowed
from fluxflow.errors import ConfigError, FluxFlowError, shorten

GROUPS = {folder.name: sorted(file.stem for file in folder.glob("*.yaml")) for folder in CONFIGS.glob("*/")}
SEVERAL = ("logger",)  # groups of which several members may be chosen
TEXTS = (
    "name", "output_dir", "run_dir", "vae", "resume", "data.train", "data.val", "data.transform.caption_prefix",
    "data.reader.captions", "data.reader.caption_key", "text.pretrain_model", "callbacks.previews.prompts",
    "model.version", "run", "out", "device", "text_model", "prompts", "prompts_file", "negative_prompt", "images",
)  # fmt: skip


def as_typed(arguments: list[str]) -> list[str]:
    """Return the arguments of a command with what Hydra would misread put as it takes it.

    Hydra reads `name=2024_01` as the number 202401 and stumbles over `precision=16` and `logger=null`. Here the first
    two are texts, and null leaves a group out.

    Raises:
        ConfigError: several members of a group of which one is chosen.
    """
    return [_as_typed(argument) for argument in arguments]


def chosen_groups(overrides: list[str]) -> list[str]:
    """Return those of the overrides that choose a member of a group."""
    return [override for override in overrides if override.lstrip("+").partition("=")[0] in GROUPS]


def explain(error: Exception) -> str:
    """Return what is wrong with a command line, with the nearest valid names; or with a file."""
    cause = error.__cause__
    origin: BaseException = error
    while origin.__context__ is not None:
        origin = origin.__context__
    if isinstance(error, FluxFlowError):
        return " ".join(str(error).splitlines())
    if isinstance(origin, FluxFlowError):  # raised while an interpolation was resolved
        return " ".join(str(origin).splitlines())
    if isinstance(error, MissingConfigException) and error.options and error.missing_cfg_file:
        group, _, value = error.missing_cfg_file.rpartition("/")
        return configuration.unknown_value(group, value, error.options)
    if isinstance(error, OverrideParseException):
        key, _, value = error.override.partition("=")
        quoted = value.strip("\"'").replace('"', '\\"')
        return f"{shorten(error.override)} cannot be read. A text with commas, quotes or brackets is quoted twice: " + (
            f"'{key}=\"{shorten(quoted)}\"'"
        )
    if isinstance(error, ConfigCompositionException) and isinstance(cause, OmegaConfBaseException) and cause.full_key:
        if isinstance(cause.parent_node, DictConfig) and "not in struct" in str(cause):
            return _unknown(cause.full_key, cause.parent_node)
        return f"{cause.full_key}: {str(cause).splitlines()[0]}"
    if isinstance(error, OSError) and error.filename:
        return f"{shorten(str(error.filename), 200)}: {error.strerror}"
    return " ".join(str(error).split())


def _as_typed(argument: str) -> str:
    key, equals, text = argument.partition("=")
    if not equals:
        return argument
    try:
        override: Override = OverridesParser.create().parse_override(argument)
    except HydraException:
        return argument  # refused by Hydra in its turn
    except ValueError as error:  # Python reads no number of thousands of digits
        raise ConfigError(f"{key}: {error}") from error
    if key not in TEXTS and key not in GROUPS:
        return argument
    value = override.value()
    if key in GROUPS and value is None:
        return f"~{key}"
    if key in GROUPS and isinstance(value, list) and key not in SEVERAL:
        raise ConfigError(f"{key} takes one of {', '.join(GROUPS[key])}, not a list.")
    return f'{key}="{text}"' if isinstance(value, (bool, int, float)) else argument


def _unknown(key: str, parent: DictConfig) -> str:
    """Return the sentence for a key that a config lacks: it may be an argument of its object all the same."""
    name, above = key.rpartition(".")[2], key.rpartition(".")[0]
    target = str(parent.get("_target_"))
    arguments = arguments_of(target) if is_allowed(target) else {}
    if name in arguments:
        return f"'{key}' is not in the config yet: +{key}= adds it."
    root: Any = parent._get_root()
    valid = [*configuration.dotted(containers(root)), *(f"{above}.{known}" for known in arguments)]
    sentence = configuration.unknown_key(key, valid)
    return f"{sentence} ('+{key}={{_target_: …}}' adds one.)" if above in configuration.OPEN else sentence
