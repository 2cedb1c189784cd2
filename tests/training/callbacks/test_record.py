import json
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer

from fluxflow import __version__
from fluxflow.report.read import read_run
from fluxflow.training.callbacks.record import HISTORY, RunRecord, command_line, parameter_counts
from tests.training import stages


def events(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (folder / HISTORY).read_text().splitlines()]


class Stop(Callback):
    """Stops training, or raises, after the step."""

    def __init__(self, error: Exception | None = None) -> None:
        self.error = error

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.global_step == 2:
            trainer.should_stop = True
            if self.error:
                raise self.error


def test_the_history_has_each_start_and_end(tmp_path: Path) -> None:
    trainer = stages.fit(stages.vae(), RunRecord({"steps": 2}, tmp_path), steps=2)
    trainer.save_checkpoint(tmp_path / "x.ckpt")
    stages.fit(stages.vae(), RunRecord({"steps": 4}, tmp_path), steps=4, checkpoint=tmp_path / "x.ckpt")
    found = events(tmp_path)
    assert [(event["event"], event["step"]) for event in found] == [("start", 0), ("end", 2), ("start", 2), ("end", 4)]
    assert (found[0]["fluxflow"], found[0]["torch"]) == (__version__, torch.__version__)
    assert found[0]["device"].endswith(f", {torch.get_num_threads()} threads")
    run = read_run(tmp_path)
    assert (run.state, run.step, run.steps) == ("finished", 4, 4)
    assert 0 <= run.seconds < 600


@pytest.mark.parametrize("error", [None, RuntimeError("out of luck\nand more")])
def test_a_run_that_is_stopped_or_fails_says_so(tmp_path: Path, error: Exception | None) -> None:
    try:
        stages.fit(stages.vae(), RunRecord({}, tmp_path), Stop(error), steps=9)
    except RuntimeError:
        assert error
    run = read_run(tmp_path)
    assert (run.state, run.error) == (("failed", "out of luck") if error else ("stopped", ""))
    assert (run.step, run.steps) == (2, 9)


def test_parameters_are_counted_for_each_network() -> None:
    module = stages.flow()
    counts = parameter_counts(module)
    assert set(counts) == {"compressor", "expander", "flow_processor", "text_encoder"}
    assert counts["compressor"] == [sum(p.numel() for p in module.latent_space.compressor.parameters()), 0]
    every = sum(p.numel() for p in module.flow_processor.parameters())
    assert counts["flow_processor"] == [every, every]
    assert counts["text_encoder"][1] == sum(p.numel() for p in module.text_encoder.output_layer.parameters())


@pytest.mark.parametrize(
    ("arguments", "command"),
    [
        (["/home/me/train.py", "stage=vae", "a=[1, 2]"], "python train.py stage=vae 'a=[1, 2]'"),
        (["/usr/bin/fluxflow-train", "-m"], "fluxflow-train -m"),
    ],
)
def test_a_command_is_as_it_can_be_typed(arguments: list[str], command: str) -> None:
    assert command_line(arguments) == command


def test_a_full_disk_costs_a_line_and_no_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: Any) -> None:
    def refuse(*_: Any) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("fluxflow.json_lines.append_whole", refuse)
    assert stages.fit(stages.vae(), RunRecord({}, tmp_path), steps=1).global_step == 1
    assert "cannot be written: No space left on device. The run goes on without this line." in caplog.text
