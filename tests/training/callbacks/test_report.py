from pathlib import Path
from typing import Any

import pytest
from lightning import Trainer

from fluxflow.training.callbacks.record import RunRecord
from fluxflow.training.callbacks.report import Report
from fluxflow.training.metrics_file import MetricsFile
from tests.training import stages
from tests.training.callbacks.test_record import Stop


def run(folder: Path, *callbacks: Any, steps: int = 3) -> Trainer:
    logger = MetricsFile(folder / "metrics.csv")
    record = RunRecord({"steps": steps}, folder)
    return stages.fit(stages.vae(), record, *callbacks, steps=steps, logger=logger, log_every_n_steps=1)


def test_a_run_ends_with_its_page(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    run(tmp_path, Report(tmp_path))
    text = (tmp_path / "report.html").read_text()
    assert ">finished<" in text
    assert "train/l1_mse" in text
    assert [line for line in caplog.messages if line.startswith("Report: ") and line.endswith(" s)")]


def test_a_run_that_was_killed_after_its_last_step_has_its_page_when_it_is_resumed(tmp_path: Path) -> None:
    trainer = run(tmp_path)
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    record = RunRecord({"steps": 3}, tmp_path)
    stages.fit(stages.vae(), record, Report(tmp_path), steps=3, checkpoint=tmp_path / "last.ckpt")
    assert ">finished<" in (tmp_path / "report.html").read_text()


@pytest.mark.parametrize(("error", "state"), [(None, "stopped"), (RuntimeError("out of luck"), "failed")])
def test_a_run_that_does_not_reach_its_end_has_one_too(tmp_path: Path, error: Exception | None, state: str) -> None:
    try:
        run(tmp_path, Stop(error), Report(tmp_path), steps=9)
    except RuntimeError:
        assert error
    text = (tmp_path / "report.html").read_text()
    assert f">{state}<" in text
    assert "The run is not finished" in text
    assert ("out of luck" in text) == bool(error)


def test_what_fails_there_is_one_sentence_in_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: Any) -> None:
        raise ValueError("no such\nthing")

    monkeypatch.setattr("fluxflow.training.callbacks.report.write_report", fail)
    assert run(tmp_path, Report(tmp_path)).global_step == 3
    warnings = [record.message for record in caplog.records if record.levelname == "WARNING"]
    assert [line for line in warnings if line.startswith("The report could not be written (no such);")]
    assert "Traceback" not in caplog.text
