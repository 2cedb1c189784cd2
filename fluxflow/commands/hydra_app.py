"""What all commands do around Hydra: a mistake becomes one line, and a sweep goes on after a failed job."""

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
from hydra._internal import hydra as hydra_internals
from hydra._internal.config_loader_impl import ConfigLoaderImpl
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException
from yaml import YAMLError

from fluxflow.claims import claim, is_first_rank, release
from fluxflow.commands import trusted
from fluxflow.commands.objects import containers
from fluxflow.commands.overrides import as_typed, chosen_groups, explain
from fluxflow.errors import ConfigError, FluxFlowError
from fluxflow.files import FULL, remove_partial, storage_errors
from fluxflow.runs import remove_if_empty

MISTAKES = (FluxFlowError, HydraException, OmegaConfBaseException, YAMLError, OSError)  # of users, or of their machine

log = logging.getLogger(__name__)
_failed_jobs: list[str] = []
_sweep_folders: set[Path] = set()  # of the sweep of this process, once its first job has begun


class CheckedLoader(ConfigLoaderImpl):
    """Hydra's loader of configs; it hands out none with which Hydra would start what is not its own."""

    def load_configuration(self, *args: Any, **kwargs: Any) -> DictConfig:
        """As of Hydra, for a run and for each job of a sweep. Raises ConfigError."""
        config = super().load_configuration(*args, **kwargs)
        trusted.check_hydra(containers(config.hydra))
        return config

    def _process_config_searchpath(self, config_name: Any, parsed_overrides: Any, repo: Any) -> None:
        """Refuse before Hydra reads what a file or an override adds to the search path."""
        loaded = repo.load_config(config_path=config_name) if config_name else None
        found = [loaded and OmegaConf.select(loaded.config, "hydra.searchpath")]
        found += [one.value() for one in parsed_overrides if one.get_key_element() == "hydra.searchpath"]
        for paths in found:
            trusted.check_searchpath(list(paths) if paths else paths)
        super()._process_config_searchpath(config_name, parsed_overrides, repo)


def run(main: Callable[[], None], after_sweep: Callable[[Path], None] | None = None) -> None:
    """Run a Hydra command; a mistake in its options becomes one line on stderr and exit code 1.

    Args:
        main: the command, below `hydra.main`.
        after_sweep: is given the folder of a sweep when all of its jobs have ended.
    """
    wants_traceback = os.environ.get("HYDRA_FULL_ERROR") == "1"
    os.environ["HYDRA_FULL_ERROR"] = "1"  # Hydra then raises instead of printing by itself
    # There is no public place between composing a config and starting what it names.
    hydra_internals.ConfigLoaderImpl = CheckedLoader  # pyright: ignore[reportPrivateImportUsage]
    atexit.register(gc.freeze)  # else Python looks through all that torch has made once more, for seconds
    try:
        sys.argv[1:] = as_typed(sys.argv[1:])
        main()
        if after_sweep is not None:
            for folder in _sweep_folders:
                after_sweep(folder)
    except BrokenPipeError:  # of `… --help | head`: nobody reads on
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(0)
    except MISTAKES as error:
        if wants_traceback:
            raise
        sys.exit(f"error: {explain(error)}")
    finally:
        release()
    if _failed_jobs:
        sys.exit(f"error: {len(_failed_jobs)} of the jobs failed: {'; '.join(_failed_jobs)}")


def job(task: Callable[[DictConfig], Any]) -> Callable[[DictConfig], Any]:
    """Wrap the function below `hydra.main`: mistakes become one line, and a sweep outlives a failed job."""

    @functools.wraps(task)
    def reported(config: DictConfig) -> Any:
        hydra = HydraConfig.get()
        run_dir = Path(hydra.runtime.output_dir)
        if hydra.mode == RunMode.MULTIRUN:
            _sweep_folders.add(Path(hydra.sweep.dir))
        try:
            with storage_errors(run_dir, FULL):
                return task(config)
        except MISTAKES as error:
            release(run_dir)
            remove_if_empty(run_dir)
            print(f"error: {explain(error)}", file=sys.stderr)
            log.debug("This is how it came about:", exc_info=True)  # hydra.verbose=true shows it
        except Exception:
            if hydra.mode != RunMode.MULTIRUN:
                raise
            traceback.print_exc()
        finally:
            release(run_dir)
        if hydra.mode != RunMode.MULTIRUN:
            sys.exit(1)
        _failed_jobs.append(hydra.job.override_dirname)
        return None

    return reported


def hold(run_dir: Path) -> None:
    """Hold the folder of a run until the job ends, and clear away what killed writers left there.

    Raises:
        ConfigError: another process works in it.
    """
    if not claim(run_dir):
        raise ConfigError(f"Another process works in {run_dir}: wait for it, stop it, or give another name=.")
    if is_first_rank():
        remove_partial(run_dir)


def reference() -> DictConfig:
    """Return the config of this job's choice of groups without its other overrides."""
    hydra = HydraConfig.get()
    return compose(hydra.job.config_name, overrides=chosen_groups(hydra.overrides.task))
