"""Whether OpenMP gets the setting, by its own report as it is loaded."""

import os
import subprocess
import sys

import pytest

from fluxflow.threads import SPINS, wait_briefly


@pytest.mark.parametrize("given", [{"GOMP_SPINCOUNT": "7"}, {"OMP_WAIT_POLICY": "active"}])
def test_what_the_user_sets_takes_precedence(given: dict[str, str]) -> None:
    environment = dict(given)
    wait_briefly(environment)
    assert environment == given


@pytest.mark.skipif(sys.platform != "linux", reason="torch runs on GNU's OpenMP on Linux alone")
@pytest.mark.parametrize("given", [None, "7"])
@pytest.mark.parametrize(
    "command",
    [
        ["-c", "import fluxflow.models.vae"],
        ["-c", "import fluxflow, subprocess, sys; subprocess.run([sys.executable, '-c', 'import torch'], check=True)"],
        ["-m", "fluxflow.checkpoint", "inspect", "nothing"],
    ],
    ids=["import", "child", "command"],
)
def test_openmp_is_loaded_with_the_setting(command: list[str], given: str | None) -> None:
    inherited = {name: value for name, value in os.environ.items() if name not in ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")}
    environment = inherited | {"OMP_DISPLAY_ENV": "verbose"} | ({"GOMP_SPINCOUNT": given} if given else {})
    run = subprocess.run([sys.executable, *command], env=environment, capture_output=True, text=True, check=False)
    assert f"GOMP_SPINCOUNT = '{given or SPINS}'" in run.stderr
