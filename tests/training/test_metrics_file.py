import csv
from pathlib import Path

from fluxflow.training.metrics_file import MetricsFile


def read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="") as file:
        return list(csv.DictReader(file))


def test_metrics_of_one_step_share_a_row_and_new_metrics_add_a_column(tmp_path: Path) -> None:
    log = MetricsFile(tmp_path / "run" / "metrics.csv")
    log.log_metrics({"loss": 2.0}, step=1)
    log.log_metrics({"loss": 1.0}, step=2)
    log.save()  # which Lightning calls after each row
    log.log_metrics({"val/loss": 1.5}, step=2)
    log.finalize("success")
    assert read(log.path) == [
        {"step": "1", "loss": "2.0", "val/loss": ""},
        {"step": "2", "loss": "1.0", "val/loss": "1.5"},
    ]


def test_a_resumed_run_replaces_the_rows_it_repeats(tmp_path: Path) -> None:
    for steps in ((1, 2, 3), (2, 3, 4)):
        log = MetricsFile(tmp_path / "metrics.csv")
        for step in steps:
            log.log_metrics({"first_step": float(steps[0])}, step=step)
        log.finalize("interrupted")
    assert [(row["step"], row["first_step"]) for row in read(log.path)] == [
        ("1", "1.0"), ("2", "2.0"), ("3", "2.0"), ("4", "2.0"),
    ]  # fmt: skip
