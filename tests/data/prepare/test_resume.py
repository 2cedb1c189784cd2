"""A run that was killed anywhere and goes on leaves the same bytes as one that was not."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fluxflow.data.prepare import run as pipeline
from fluxflow.data.prepare.work import REPORT, STATE, put

PICTURES = int(os.environ.get("FLUXFLOW_TEST_PICTURES", "3000"))  # of the slow test


def many_pictures(folder: Path, count: int) -> Path:
    """Smooth JPEGs of mixed shapes, of which every 50th is broken in one way or another."""
    rng = np.random.default_rng(0)
    for number in range(count):
        path = folder / f"{number % 7}" / f"{number:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        width, height = (int(side) for side in rng.integers(150, 400, 2))
        low = Image.fromarray(rng.integers(0, 256, (5, 5, 3), dtype=np.uint8))
        low.resize((width, height), Image.Resampling.BILINEAR).save(path, quality=80)
        path.with_suffix(".txt").write_text(f"picture {number} " + "of colours " * int(rng.integers(0, 9)))
        if number % 50 == 7:
            path.write_bytes(path.read_bytes()[: 100 * (number % 3)])
        if number % 50 == 8:
            path.write_bytes(path.read_bytes()[:-900])
        if number % 50 == 9:
            path.with_suffix(".txt").write_text("")
    return folder


def start(source: Path, out: Path, processes: int, options: list[str]) -> subprocess.Popen:
    command = [sys.executable, "-m", "fluxflow.data.prepare", str(source), str(out), "--processes", str(processes)]
    return subprocess.Popen([*command, *options], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)


def finish(run: subprocess.Popen) -> None:
    _, errors = run.communicate()
    assert run.returncode == 0, errors


def results(out: Path) -> int:
    return len(list((out / STATE).glob("*/*.json")))


def kill_and_go_on(source: Path, out: Path, options: list[str], pieces: int, kills: int, pause: float) -> int:
    """Kill runs with 1, 2 and 3 processes at random moments, then let one finish; returns how many kills hit.

    Each run is left to get further than the one before, so that no kill hits one that has yet to begin.
    """
    rng, hit = random.Random(0), 0
    for number, mark in enumerate(sorted(rng.sample(range(pieces), k=kills))):
        wanted = max(mark, results(out) + 1)
        run = start(source, out, 1 + number % 3, options)
        while results(out) < wanted and run.poll() is None:
            time.sleep(0.002)
        time.sleep(pause * rng.random())
        hit += run.poll() is None
        run.kill()  # its worker processes are left to find out for themselves
        run.communicate()
    finish(start(source, out, 2, options))
    return hit


def test_killed_runs_go_on_to_the_same_bytes(tmp_path, files):
    source, options = many_pictures(tmp_path / "pictures", 480), ["--shard-samples", "8", "--val-fraction", "0.1"]
    finish(start(source, tmp_path / "one", 1, options))
    assert kill_and_go_on(source, tmp_path / "many", options, pieces=40, kills=4, pause=0.05)
    assert files(tmp_path / "one") == files(tmp_path / "many")


@pytest.mark.slow
def test_ten_kills_of_a_larger_run(tmp_path, files):
    source, options = many_pictures(tmp_path / "pictures", PICTURES), ["--val-fraction", "0.02", "--drop-duplicates"]
    options += ["--shard-samples", str(PICTURES // 40)]
    finish(start(source, tmp_path / "one", 2, options))
    hit = kill_and_go_on(source, tmp_path / "many", options, pieces=40, kills=10, pause=0.05)
    assert hit >= 8
    assert files(tmp_path / "one") == files(tmp_path / "many")


def interrupted(source: Path, out: Path, prepare, monkeypatch, after: int) -> None:
    """Stop a run in this process once so many results of work are kept."""
    count = 0
    assert pipeline.put is put  # what else is written, is written by the real one

    def stop(path: Path, content: object) -> None:
        nonlocal count
        count += path.name != "plan.json"
        if count > after:
            signal.raise_signal(signal.SIGTERM)
        put(path, content)

    with monkeypatch.context() as patch:
        patch.setattr("fluxflow.data.prepare.work.put", stop)
        with pytest.raises(SystemExit) as stopped:
            prepare(source, out, "--shard-samples", "3")
    assert stopped.value.code == 128 + signal.SIGTERM


def test_finished_shards_are_kept_and_the_half_written_made_again(make_folder, tmp_path, prepare, monkeypatch, files):
    source, out = make_folder(12), tmp_path / "out"
    interrupted(source, out, prepare, monkeypatch, after=3)  # the scan and two shards; the third has no result yet
    kept = {name: (out / "train" / name).stat().st_ino for name in ("00000.tar", "00001.tar", "00002.tar")}
    (out / "train" / "00000.tar").write_bytes(b"cut")
    (out / "train" / "00003.tar.1.part").write_bytes(b"half")
    assert prepare(source, out, "--shard-samples", "3") == 0
    again = {name: (out / "train" / name).stat().st_ino for name in kept}
    assert again["00001.tar"] == kept["00001.tar"]
    assert again["00002.tar"] != kept["00002.tar"]
    assert prepare(source, tmp_path / "whole", "--shard-samples", "3") == 0
    assert files(out) == files(tmp_path / "whole")


def test_another_plan_is_refused_with_what_differs(make_folder, tmp_path, prepare, monkeypatch, capsys):
    source, out = make_folder(12), tmp_path / "out"
    interrupted(source, out, prepare, monkeypatch, after=2)
    for finished in (False, True):
        capsys.readouterr()
        assert prepare(source, out, "--shard-samples", "3", "--size", "8") == 1
        assert "was begun otherwise: --size was None and is 8. Give" in capsys.readouterr().err
        (source / "p.1.txt").write_text("changed, and longer")
        assert prepare(source, out, "--shard-samples", "3") == 1
        assert "the pictures or captions of IN were others" in capsys.readouterr().err
        (source / "p.1.txt").write_text("caption 1\n")
        if not finished:
            assert prepare(source, out, "--shard-samples", "3") == 0


def test_a_finished_folder_is_reported_again_and_left_alone(make_folder, tmp_path, prepare, capsys, files):
    source, out = make_folder(6), tmp_path / "out"
    assert prepare(source, out) == 0
    report, before = capsys.readouterr().out, files(out)
    (out / STATE).mkdir()  # as after a kill in the very last step
    assert prepare(source, out) == 0
    assert capsys.readouterr().out == report
    assert files(out) == before
    assert json.loads(before[REPORT])["samples"] == {"train": 6, "val": 0}


def test_two_runs_do_not_write_into_one_folder(tmp_path, capsys, prepare):
    source = many_pictures(tmp_path / "pictures", 40)
    run = start(source, tmp_path / "out", 1, ["--shard-samples", "1"])
    while not results(tmp_path / "out"):
        time.sleep(0.002)
    run.send_signal(signal.SIGSTOP)
    assert prepare(source, tmp_path / "out", "--shard-samples", "1") == 1
    assert "Another process is preparing" in capsys.readouterr().err
    run.send_signal(signal.SIGCONT)
    finish(run)
