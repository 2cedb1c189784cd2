import logging

import pytest

from fluxflow.training.callbacks.progress_bar import Progress, duration
from tests.training.callbacks import standin


@pytest.mark.parametrize(("seconds", "text"), [(42.4, "42s"), (604, "10m04s"), (11_100, "3h05m"), (59.6, "1m00s")])
def test_duration(seconds: float, text: str) -> None:
    assert duration(seconds) == text


def test_lines_tell_step_rate_time_left_and_metrics(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fluxflow"):
        standin.trainer(Progress(every_seconds=0, terminal=False)).fit(standin.Module(), standin.Data())
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("fluxflow")]
    assert any(line.startswith("step 3/6  50%  ") and " eta " in line and "loss " in line for line in lines), lines
    assert any(line.startswith("step 6  validation  val/loss 2") for line in lines), lines
    assert lines[-1].startswith("6 steps in ")


def test_lines_are_seconds_apart_and_the_last_step_is_always_told(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, logger="fluxflow"):
        standin.trainer(Progress(every_seconds=3600, terminal=False), val_every=100).fit(
            standin.Module(), standin.Data()
        )
    lines = [record.getMessage() for record in caplog.records if record.name.startswith("fluxflow")]
    assert [line.split("  ")[0] for line in lines] == ["step 6/6", "6 steps in 0s"]


def test_a_terminal_gets_a_bar_instead_of_lines(capsys: pytest.CaptureFixture[str]) -> None:
    standin.trainer(Progress(terminal=True)).fit(standin.Module(), standin.Data())
    shown = capsys.readouterr().out
    assert "6/6" in shown
    assert "step 6" not in shown
