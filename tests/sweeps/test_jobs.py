"""Reading the jobs of a sweep from their folders, and the files of the answer."""

import csv
import json
from pathlib import Path

import pytest
from omegaconf import OmegaConf

from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.sweeps.__main__ import main
from fluxflow.sweeps.answer import answer, write_answer
from fluxflow.sweeps.jobs import find_runs, read_jobs


def make_job(folder: Path, seed: int, dim: int, psnr: float, step: int = 900, batch: int = 2) -> None:
    folder.mkdir(parents=True)
    config = {
        "seed": seed, "steps": 900, "run_dir": str(folder), "name": folder.name, "accumulate": 1,
        "stage": {"_target_": "fluxflow.training.VAELitModule", "compressor": {"d_model": dim}, "seed": seed},
        "model": {"vae_dim": dim}, "data": {"batch_size": batch}, "save_every": 100 + seed,
    }  # fmt: skip
    OmegaConf.save(OmegaConf.create(config), folder / "config.yaml")
    (folder / "metrics.csv").write_text(
        f"step,val/psnr,speed/images_per_second,speed/tflops,speed/peak_memory_gb\n450,15,{10 / dim},0.5,1.5\n"
        f"{step},{psnr},{10 / dim},0.5,1.25\n"
    )
    parameters = {"compressor": [100 * dim, 100 * dim], "text_encoder": [10**6, 0]}
    start = {"event": "start", "time": "2026-01-01T00:00:00+00:00", "step": 0, "parameters": parameters}
    end = {"event": "end", "time": "2026-01-01T00:01:00+00:00", "step": step, "steps": 900}
    (folder / "history.jsonl").write_text(json.dumps(start) + "\n" + json.dumps(end) + "\n")


@pytest.fixture
def sweep(tmp_path: Path) -> Path:
    """Two sizes × three seeds; the larger one is 1 dB better in each seed."""
    for seed in range(3):
        for dim in (8, 16):
            psnr = 18 + 2 * seed + (dim == 16) + 0.01 * seed * (dim == 8)
            make_job(tmp_path / "sweep" / f"model.vae_dim={dim},seed={seed}", seed, dim, psnr)
    return tmp_path / "sweep"


def test_a_job_knows_in_what_it_differs_and_what_it_cost(sweep: Path) -> None:
    jobs, measure, better = read_jobs(find_runs([sweep]))
    assert (measure, better, len(jobs)) == ("val/psnr", "higher", 6)
    first = next(job for job in jobs if job.options == {"model.vae_dim": "16"} and job.seed == 2)
    assert first.value == 23
    assert first.budget == 1800
    assert first.costs == {"parameters": 1600, "step": 3200, "flops": 1600, "memory": 1.5}


def test_the_larger_model_is_better(sweep: Path) -> None:
    found = write_answer([sweep])
    assert found.verdict == "model.vae_dim=16 is best: better than each other model."
    assert found.warnings == []
    rows = list(csv.DictReader((sweep / "sweep.csv").open()))
    assert (rows[0]["rank"], rows[0]["seed"], rows[0]["val/psnr"]) == ("1", "0", "19.0")
    assert len(rows) == 6
    text = (sweep / "sweep.md").read_text()
    assert "| 1 | model.vae_dim=16 | 21 (16.03 to 25.97) | 3 | 1,600 |" in text
    page = (sweep / "sweep.html").read_text()
    assert found.verdict in page
    assert "http://" not in page.split("<script>")[0]


def test_a_job_that_did_not_finish_has_no_value(sweep: Path, capsys: pytest.CaptureFixture[str]) -> None:
    make_job(sweep / "model.vae_dim=32,seed=0", 0, 32, 30.0, step=200)
    assert main([str(sweep)]) == 0
    out = capsys.readouterr().out
    assert "model.vae_dim=32,seed=0 has no value: it is stopped, at step 200 of 900." in out
    assert "The models have different numbers of seeds, from 0 to 3." in out


def test_options_that_change_together_are_one(tmp_path: Path) -> None:
    make_job(tmp_path / "a", 0, 8, 20.0, batch=2)
    make_job(tmp_path / "b", 0, 16, 21.0, batch=4)
    found = answer([tmp_path / "a", tmp_path / "b"])
    assert [model.options for model in found.models] == [{"model.vae_dim": "16"}, {"model.vae_dim": "8"}]
    assert "different numbers of images, from 1,800 to 3,600" in found.warnings[0]
    assert found.comparisons[0].verdict.word == "inconclusive"


def test_measures_of_an_evaluation_can_rank(sweep: Path) -> None:
    for folder in sweep.iterdir():
        dim = 16 if "16" in folder.name else 8
        row = {"group": "samples", "name": "kid", "value": 3.0 * dim, "better": "lower"}
        (folder / "evaluation.json").write_text(json.dumps({"measures": [row]}))
    found = answer([sweep], "samples/kid")
    assert found.better == "lower"
    assert found.models[0].options == {"model.vae_dim": "8"}


@pytest.mark.parametrize(
    ("folders", "measure", "error", "message"),
    [(["nowhere"], None, CheckpointError, "nowhere"), (["sweep"], "val/fid", ConfigError, "val/psnr")],
)
def test_what_cannot_be_ranked_is_one_line(
    sweep: Path, folders: list[str], measure: str | None, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        answer([sweep.parent / folder for folder in folders], measure)
