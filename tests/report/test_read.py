"""Reading run folders, whole ones and what is left of others."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fluxflow.errors import CheckpointError
from fluxflow.report.read import TRACES, read_metrics, read_run
from tests.report import folders


def test_a_whole_folder_is_read(tmp_path: Path) -> None:
    run = read_run(folders.write(tmp_path / "vae" / "mine"))
    assert (run.name, run.stage, run.state, run.step, run.steps) == ("vae/mine", "vae", "finished", 400, 400)
    assert run.seconds == 300
    assert run.config == folders.CONFIG
    assert list(run.metrics) == list(folders.METRICS)
    np.testing.assert_array_equal(run.metrics["loss"].steps, 10 * np.arange(1, 41))
    np.testing.assert_array_equal(run.metrics["loss"].values, folders.METRICS["loss"])
    assert [preview.step for preview in run.previews] == [0, 200, 400]
    assert [row["step"] for row in run.curves] == [0, 200, 400]
    assert {reason: found.samples for reason, found in run.rejected.items()} == {"no caption": 2, "damaged picture": 1}
    assert [line.text for line in run.warnings] == ["No font for ☃ was found"]


def test_a_checkpoint_stands_for_its_run(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "mine")
    (folder / "checkpoints").mkdir()
    (folder / "checkpoints" / "last.ckpt").touch()
    assert read_run(folder / "checkpoints" / "last.ckpt").folder == folder


@pytest.mark.parametrize("kept", [*TRACES, "checkpoints/last.ckpt"])
def test_any_trace_of_a_run_is_enough(tmp_path: Path, kept: str) -> None:
    folder = folders.write(tmp_path / "mine")
    text = (folder / kept).read_bytes() if (folder / kept).is_file() else b""
    (tmp_path / "part" / kept).parent.mkdir(parents=True)
    (tmp_path / "part" / kept).write_bytes(text)
    run = read_run(tmp_path / "part")
    assert run.step == {"metrics.csv": 400, "run.log": 10, "history.jsonl": 400}.get(kept, 0)


def test_what_is_no_run_is_refused_in_one_sentence(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match=r"There is no .*nowhere\. Give the folder of a run"):
        read_run(tmp_path / "nowhere")
    with pytest.raises(CheckpointError, match=r"holds no run: none of config\.yaml, metrics\.csv"):
        read_run(tmp_path)


def test_bad_cells_and_torn_rows_are_left_out(tmp_path: Path) -> None:
    file = tmp_path / "metrics.csv"
    file.write_text(
        "step,loss,val/loss,empty\r\n1,0.5,,\r\n2,nan,inf,\r\nx,1,1,\r\n3,0.25,0.5\r\n4,0.125,2,\r\n5,0.06,1"
    )
    found = read_metrics(file)
    assert {name: (one.steps.tolist(), one.values.tolist()) for name, one in found.items()} == {
        "loss": ([1, 4], [0.5, 0.125]),
        "val/loss": ([4], [2.0]),
    }


@pytest.mark.parametrize("text", ["", "step", "step,loss\r\n", "loss\r\n1\r\n", "\0\r\n\0,\0\r\n", "step,loss\r\n1"])
def test_a_file_without_metrics_has_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "metrics.csv").write_text(text)
    assert read_metrics(tmp_path / "metrics.csv") == {}


def test_nonsense_in_any_file_is_passed_over(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "mine")
    for name in (*TRACES, "curves.jsonl", "rejected.jsonl", "evaluation.json"):
        (folder / name).write_bytes(b'\xff{"event": [] ,,\n[1, 2]\n{"step": "x", "event": "end", "time": 3}\n- : a')
    (folder / "previews" / "step_x.png").touch()
    run = read_run(folder)
    assert (run.config, run.metrics, run.history, run.log, run.curves) == ({}, {}, [], [], [])
    assert run.state == "unknown"


HISTORY = {
    "finished": [folders.START, folders.END],
    "stopped": [folders.START, folders.END | {"step": 200}],
    "failed": [folders.START, folders.END | {"error": "the disk is full"}],
    "killed": [folders.START, folders.END, folders.START],
}


@pytest.mark.parametrize("state", HISTORY)
def test_the_history_says_how_a_run_ended(tmp_path: Path, state: str) -> None:
    folder = folders.write(tmp_path / "mine")
    (folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in HISTORY[state]))
    assert read_run(folder).state == state


LOGS = {
    "finished": [
        "step 400/400  100%  5 it/s",
        "step 400  validation  val/loss 0.1",
        "400 steps in 1m20s, 4% of it validation",
    ],
    "stopped": ["step 200/400  50%  5 it/s", "SIGTERM: saving after this step", "200 steps in 40s"],
    "unknown": ["step 200/400  50%  5 it/s"],
}


@pytest.mark.parametrize("state", LOGS)
def test_the_log_says_it_of_an_older_version(tmp_path: Path, state: str) -> None:
    lines = [f"2026-05-04 12:0{number}:00,250 INFO {text}\n" for number, text in enumerate(LOGS[state])]
    (tmp_path / "run.log").write_text("".join(lines))
    run = read_run(tmp_path)
    assert run.state == state
    assert run.seconds == 60 * (len(lines) - 1)


def test_a_run_that_is_held_is_at_work(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "mine")
    (folder / "history.jsonl").write_text(json.dumps(folders.START) + "\n")
    code = (
        "import sys, pathlib; from fluxflow.claims import claim;"
        "print(claim(pathlib.Path(sys.argv[1])), flush=True); sys.stdin.read()"
    )
    holder = subprocess.Popen(
        [sys.executable, "-c", code, str(folder)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert holder.stdout
        assert holder.stdout.readline() == "True\n"
        assert read_run(folder).state == "at work"
        assert read_run(folder).state == "at work", "to look takes nothing away"
    finally:
        holder.communicate("")
    assert read_run(folder).state == "killed"
    (folder / ".lock").touch()  # what a killed process leaves
    assert read_run(folder).state == "killed"


def test_pauses_between_two_parts_are_no_time_of_the_run(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "mine")
    events = [
        folders.START | {"time": "2026-05-04T10:00:00+02:00"},
        folders.END | {"time": "2026-05-04T10:10:00+02:00", "step": 200},
        folders.START | {"time": "2026-05-05T08:00:00+02:00", "step": 200},
        folders.END | {"time": "2026-05-05T08:05:00+02:00"},
    ]
    (folder / "history.jsonl").write_text("".join(json.dumps(event) + "\n" for event in events))
    assert read_run(folder).seconds == 900


def test_samples_are_grids_or_else_single_images(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "mine")
    (folder / "samples" / "001_a.png").touch()
    assert [file.name for file in read_run(folder).samples] == ["grid.png"]
    (folder / "samples" / "grid.png").unlink()
    assert [file.name for file in read_run(folder).samples] == ["001_a.png"]


def test_options_are_found_by_dotted_keys(tmp_path: Path) -> None:
    run = folders.run()
    assert run.option("stage.optimizer.lr") == 0.005
    assert run.option("stage.optimizer.nothing", "none") == "none"
    assert run.option("seed.deeper") is None
    assert run.number("data.train", 7) == 7
