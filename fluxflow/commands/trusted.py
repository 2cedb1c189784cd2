"""What a config may have Hydra itself start: launchers, sweepers, callbacks, log handlers. Without Hydra.

A config file from elsewhere can name any of them, and Hydra builds what it names before our own checks run.
"""

from collections.abc import Iterator
from typing import Any

from fluxflow.errors import ConfigError

CORE = "hydra._internal.core_plugins"
PLUGINS = "hydra_plugins"
TARGETS = frozenset(
    {
        f"{CORE}.basic_launcher.BasicLauncher",
        f"{CORE}.basic_sweeper.BasicSweeper",
        "hydra.experimental.callbacks.LogJobReturnCallback",
        f"{PLUGINS}.hydra_joblib_launcher.joblib_launcher.JoblibLauncher",
        f"{PLUGINS}.hydra_submitit_launcher.submitit_launcher.LocalLauncher",
        f"{PLUGINS}.hydra_submitit_launcher.submitit_launcher.SlurmLauncher",
        f"{PLUGINS}.hydra_ray_launcher.ray_launcher.RayLauncher",
        f"{PLUGINS}.hydra_optuna_sweeper.optuna_sweeper.OptunaSweeper",
        "optuna.samplers.GridSampler",
        "optuna.samplers.RandomSampler",
        "optuna.samplers.TPESampler",
        "optuna.samplers.CmaEsSampler",
        "optuna.samplers.NSGAIISampler",
    }
)
LOGGING = frozenset(
    {
        "fluxflow.commands.run_log.RunLog",
        "logging.Formatter",
        "logging.FileHandler",
        "logging.NullHandler",
        "logging.StreamHandler",
        "logging.handlers.RotatingFileHandler",
        "colorlog.ColoredFormatter",
    }
)
STREAMS = frozenset({"ext://sys.stdout", "ext://sys.stderr"})
RUN_FOLDER = "${hydra.runtime.output_dir}/"  # known only when a job starts, and always a path


def check_hydra(node: dict[str, Any]) -> None:
    """Refuse what Hydra would import or run on behalf of a config.

    Args:
        node: `hydra` of a composed config, interpolations unresolved.

    Raises:
        ConfigError: it names something that is neither Hydra's own nor one of its known plugins.
    """
    for key, name, value in _leaves(node, "hydra"):
        logs = key.startswith(("hydra.job_logging.", "hydra.hydra_logging."))
        if name == "_target_" and value not in TARGETS:
            raise ConfigError(f"{key}={value}: a config may have Hydra start its own parts and plugins alone.")
        if logs and name in ("()", "class", "listener") and value not in LOGGING:
            raise ConfigError(f"{key}={value}: logging may use {', '.join(sorted(LOGGING))} alone.")
        if logs and isinstance(value, str) and "://" in value and value not in STREAMS:
            raise ConfigError(f"{key}={value}: logging may write to {' and '.join(sorted(STREAMS))} and to files.")
        if logs and "${" in str(value) and not str(value).startswith(RUN_FOLDER):
            raise ConfigError(f"{key}={value}: logging takes no interpolation but {RUN_FOLDER}….")
    if node.get("job", {}).get("env_set"):
        raise ConfigError("hydra.job.env_set chooses programs and libraries: set variables in the shell instead.")


def check_searchpath(paths: Any) -> None:
    """Refuse search paths of configs in Python packages, which Hydra would import."""
    for path in paths if isinstance(paths, list) else []:
        if "://" in str(path) and not str(path).startswith("file://"):
            raise ConfigError(f"hydra.searchpath names {path}, which Hydra would import: name a folder.")


def _leaves(node: Any, key: str) -> Iterator[tuple[str, str, Any]]:
    """Yield the dotted key, the last name in it and the value of all that is no container."""
    children = node.items() if isinstance(node, dict) else enumerate(node) if isinstance(node, list) else ()
    for name, value in children:
        yield from _leaves(value, f"{key}.{name}")
        if not isinstance(value, dict | list):
            yield f"{key}.{name}", str(name), value
