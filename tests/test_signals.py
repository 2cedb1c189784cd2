"""How processes end: at once, tidily, with their parent, and never because of a signal that they ignore."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from fluxflow import signals

ROOT = Path(__file__).parents[1]
WITH_A_WORKER = """
import multiprocessing, os, signal, sys, time
from fluxflow import signals

def work():
    signals.end_with_parent()
    print(os.getpid(), flush=True)
    time.sleep(60)

signals.handle(signals.leave)
with signals.held():
    multiprocessing.get_context("fork").Process(target=work).start()
{then}
time.sleep(60)
"""


def start(code: str, **options) -> subprocess.Popen:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "start_new_session": True}
    return subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, **pipes, **options)


def is_running(pid: int) -> bool:
    """Whether there is such a process, other than a dead one that nobody asked after."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.parametrize("number", signals.SIGNALS)
def test_a_signal_ends_a_command_and_its_workers_in_one_line(number: int) -> None:
    process = start(WITH_A_WORKER.format(then=""))
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    os.killpg(process.pid, number)
    _, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + number
    assert errors == f"stopped by {signal.Signals(number).name}\n"
    assert not is_running(worker)


def test_a_worker_outlives_signals_but_not_its_parent() -> None:
    process = start(WITH_A_WORKER.format(then=""))
    assert process.stdout is not None
    worker = int(process.stdout.readline())
    for number in signals.SIGNALS:
        os.kill(worker, number)
    time.sleep(0.2)
    assert is_running(worker)
    process.kill()
    process.communicate(timeout=10)
    deadline = time.monotonic() + 5
    while is_running(worker) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not is_running(worker)


def test_a_signal_that_is_ignored_stays_ignored() -> None:
    """As after nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        previous = signals.handle(signals.leave)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGTERM) is signals.leave
        signals.restore(previous)
        assert signal.getsignal(signal.SIGTERM) is not signals.leave
    finally:
        signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize(("way_out", "printed"), [("pass", "tidy\n"), ("time.sleep(60)", "")])
def test_what_writes_tidies_up_on_its_way_out_if_that_is_quick(way_out: str, printed: str) -> None:
    process = start(f"""
import time
from fluxflow import signals
signals.PATIENCE = 0.2
with signals.unwinding("go on"):
    try:
        print("ready", flush=True)
        time.sleep(60)
    finally:
        {way_out}
        print("tidy")
""")
    assert process.stdout is not None
    assert process.stdout.readline() == "ready\n"
    process.terminate()
    output, errors = process.communicate(timeout=10)
    assert process.returncode == 128 + signal.SIGTERM
    assert output == printed
    assert errors.startswith("stopped by SIGTERM: go on\n")
    assert "Traceback" not in errors


@pytest.mark.parametrize("command", [["train.py"], ["sample.py"], ["-m", "fluxflow.checkpoint", "inspect", "."]])
def test_commands_can_be_stopped_while_they_import(command: list[str], tmp_path: Path) -> None:
    (tmp_path / "torch.py").write_text("import time; print('importing', flush=True); time.sleep(60)")
    (tmp_path / "hydra.py").write_text("import torch")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}:{ROOT}"}
    process = subprocess.Popen([sys.executable, *command], cwd=ROOT, env=environment, stdout=subprocess.PIPE,
                               stderr=subprocess.PIPE, text=True)  # fmt: skip
    assert process.stdout is not None
    assert process.stdout.readline() == "importing\n"
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=10)
    assert (process.returncode, errors) == (128 + signal.SIGINT, "stopped by SIGINT\n")
