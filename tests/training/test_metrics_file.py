import csv
import errno
import os
import threading
from pathlib import Path
from typing import Any

import pytest

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


def test_what_is_logged_is_in_the_file_at_once(tmp_path: Path) -> None:
    """A run that is killed at any moment loses no row, and the one that goes on repeats those after its checkpoint."""
    log = MetricsFile(tmp_path / "metrics.csv")
    log.log_metrics({"loss": 2.0}, step=1)
    assert read(log.path) == [{"step": "1", "loss": "2.0"}]
    log.log_metrics({"val/loss": 1.5}, step=1)
    assert read(log.path) == [{"step": "1", "loss": "2.0", "val/loss": "1.5"}]
    log.log_metrics({"loss": 1.0}, step=2)
    log.log_metrics({"loss": 0.5}, step=3)
    log.log_metrics({"val/loss": 1.25}, step=3)
    log.log_metrics({"val/loss": 1.125}, step=3)
    assert [list(row.values()) for row in read(log.path)[1:]] == [["2", "1.0", ""], ["3", "0.5", "1.125"]]
    again = MetricsFile(log.path)
    again.log_metrics({"loss": 0.75}, step=3)
    assert [list(row.values()) for row in read(log.path)[1:]] == [["2", "1.0", ""], ["3", "0.75", ""]]


def test_a_reader_never_sees_half_a_row(tmp_path: Path) -> None:
    log, columns = MetricsFile(tmp_path / "metrics.csv"), {}
    seen: list[bytes] = []
    done = threading.Event()

    def look() -> None:
        while not done.is_set():
            if log.path.exists():
                seen.append(log.path.read_bytes())

    reader = threading.Thread(target=look)
    reader.start()
    for step in range(200):
        columns[f"m{step // 50}"] = 1 / 3
        log.log_metrics(columns, step=step)
        log.log_metrics({"val": 1 / 7}, step=step)
    done.set()
    reader.join()
    for content in seen:
        header, *rows = content.decode().split("\r\n")[:-1]
        assert content.endswith(b"\r\n")
        assert {row.count(",") for row in rows} <= {header.count(",")}
        assert [row.partition(",")[0] for row in rows] == [str(step) for step in range(len(rows))]


def test_rows_that_a_full_disk_refuses_come_later(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    log, opened = MetricsFile(tmp_path / "metrics.csv"), Path.open
    log.log_metrics({"loss": 3.0, "val/loss": 2.5}, step=1)
    log.log_metrics({"loss": 2.0}, step=2)

    def full(path: Path, mode: str = "r", **options: Any) -> Any:
        if mode != "r":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(path))
        return opened(path, mode, **options)

    with monkeypatch.context() as disk:
        disk.setattr(Path, "open", full)
        log.log_metrics({"val/loss": 1.5}, step=2)
        log.log_metrics({"loss": 1.0}, step=3)
    assert [list(row.values()) for row in read(log.path)] == [["1", "3.0", "2.5"], ["2", "2.0", ""]]
    log.finalize("interrupted")
    assert [list(row.values()) for row in read(log.path)[1:]] == [["2", "2.0", "1.5"], ["3", "1.0", ""]]
