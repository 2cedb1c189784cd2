"""Configs from elsewhere: each puts a marker where Hydra would import or call something, and none of it may happen."""

import sys
from pathlib import Path

import pytest

from fluxflow.commands import hydra_app as commands
from fluxflow.commands.objects import CONFIGS

EVIL = 'import pathlib\npathlib.Path(__file__).with_name("fired").touch()\n\n\ndef fire(*args, **kwargs):\n    pass\n'
OURS = "hydra.experimental.callbacks.LogJobReturnCallback"
HANDLER = "hydra: {{{0}: {{version: 1, handlers: {{x: {1}}}, root: {{handlers: [x]}}}}}}"
HOSTILE = {
    "callback": "hydra: {callbacks: {x: {_target_: evil.fire}}}",
    "launcher": "hydra: {launcher: {_target_: evil.fire}}",
    "sweeper": "hydra: {sweeper: {_target_: evil.fire}}",
    "nested target": f"hydra: {{callbacks: {{x: {{_target_: {OURS}, y: {{_target_: evil.fire}}}}}}}}",
    "factory": HANDLER.format("job_logging", "{(): evil.fire}"),
    "factory of Hydra's log": HANDLER.format("hydra_logging", "{(): evil.fire}"),
    "class": HANDLER.format("job_logging", "{class: evil.fire}"),
    "stream": HANDLER.format("job_logging", "{class: logging.StreamHandler, stream: 'ext://evil.fire'}"),
    "interpolated": HANDLER.format("job_logging", "{class: '${oc.env:EVIL}'}"),
    "formatter": "hydra: {job_logging: {formatters: {simple: {(): evil.fire}}}}",
    "search path": "hydra: {searchpath: ['pkg://evil']}",
    "environment": "hydra: {job: {env_set: {LD_PRELOAD: evil.so}}}",
}


@pytest.fixture
def command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Runs the task of sample.py below Hydra with overrides; returns what the process would end with."""
    (tmp_path / "evil.py").write_text(EVIL)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("EVIL", "evil.fire")
    monkeypatch.setenv("HYDRA_FULL_ERROR", "0")
    monkeypatch.setattr(commands, "_failed_jobs", [])

    def run(*overrides: str) -> tuple[list[int], object]:
        import hydra

        calls: list[int] = []
        monkeypatch.setattr(sys, "argv", ["sample.py", *overrides])
        decorate = hydra.main(version_base="1.3", config_path=str(CONFIGS), config_name="sample")
        try:
            commands.run(decorate(commands.job(lambda config: calls.append(config.steps))))
        except SystemExit as end:
            return calls, end.code
        return calls, 0

    yield run
    sys.modules.pop("evil", None)


@pytest.mark.parametrize("kind", HOSTILE)
@pytest.mark.parametrize("how", ["primary", "group"])
def test_nothing_of_a_stranger_is_started(command, tmp_path: Path, kind: str, how: str) -> None:
    stranger, content = tmp_path / "theirs", HOSTILE[kind]
    if how == "primary":
        stranger.mkdir()
        (stranger / "theirs.yaml").write_text(f"defaults: [sample, _self_]\n{content}\n")
        options = [f"--config-dir={stranger}", "--config-name=theirs"]
    elif kind == "search path":
        options = ["hydra.searchpath=[pkg://evil]"]
    else:
        (stranger / "theirs").mkdir(parents=True)
        (stranger / "theirs" / "x.yaml").write_text(f"# @package _global_\n{content}\n")
        options = [f"--config-dir={stranger}", "+theirs=x"]
    calls, code = command(*options)
    assert calls == []
    assert str(code).startswith("error: hydra.")
    assert not (tmp_path / "fired").exists()


def test_jobs_of_a_sweep_are_checked(command, tmp_path: Path) -> None:
    (tmp_path / "theirs").mkdir()
    params = "hydra: {sweeper: {params: {+hydra.callbacks.x._target_: evil.fire}}}"
    (tmp_path / "theirs/theirs.yaml").write_text(f"defaults: [sample, _self_]\n{params}\n")
    calls, code = command("-m", f"--config-dir={tmp_path / 'theirs'}", "--config-name=theirs", "steps=1,2")
    assert (calls, code != 0) == ([], True)
    assert not (tmp_path / "fired").exists()


@pytest.mark.parametrize("options", [[], ["hydra/job_logging=default"], ["hydra.verbose=true"],
                                     ["hydra/hydra_logging=disabled"], ["hydra.searchpath=[file:///tmp]"]])  # fmt: skip
def test_what_is_hydras_own_goes_on(command, options: list[str]) -> None:
    assert command("steps=3", *options) == ([3], 0)


def test_sweeps_go_on(command) -> None:
    assert command("-m", "steps=1,2", "hydra.sweep.dir=sweeps") == ([1, 2], 0)
