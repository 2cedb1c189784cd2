"""What a run measures of itself: the values of the functions behind `evaluate`, within its share of the time."""

import csv
import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule, Trainer

from fluxflow.errors import ConfigError
from fluxflow.metrics.features import Features
from fluxflow.metrics.measure import PARTS
from fluxflow.metrics.reconstruction import evaluate_reconstructions
from fluxflow.metrics.velocity import AVERAGED, evaluate_velocity
from fluxflow.training.callbacks import measures
from fluxflow.training.callbacks.checkpoints import Checkpoints
from fluxflow.training.callbacks.measures import METRICS, Measures
from fluxflow.training.ema import EMA, averaged
from fluxflow.training.flow import FlowLitModule
from fluxflow.training.metrics_file import MetricsFile
from tests.training import stages


class Means(Features):
    """Features that cost nothing: the mean of each colour in the four quarters."""

    label, side = "means", 16

    def vectors(self, images: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.adaptive_avg_pool2d(images, 2).flatten(1)


@pytest.fixture(autouse=True)
def cheap_features(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(measures, "make_features", lambda name: Means())


def fit(stage: str, measure: Measures, folder: Path, steps: int = 4, every: int = 2) -> tuple[Trainer, LightningModule]:
    """A run of few steps with a validation every so many."""
    module = stages.STAGES[stage]()
    options: dict[str, Any] = {"val_check_interval": every, "check_val_every_n_epoch": None, "limit_val_batches": 2}
    trainer = stages.fit(module, EMA(0.5), measure, steps=steps, logger=MetricsFile(folder / "metrics.csv"), **options)
    return trainer, module


def rows(folder: Path) -> list[dict[str, str]]:
    """Those of metrics.csv that hold a measure."""
    with (folder / "metrics.csv").open() as file:
        return [row for row in csv.DictReader(file) if any(row[name] for name in row if name.startswith("measure/"))]


@pytest.mark.parametrize("stage", stages.STAGES)
def test_the_values_are_those_of_evaluate(tmp_path: Path, stage: str) -> None:
    parts = tuple(part for part in PARTS[stage] if part in ("reconstruction", "velocity"))
    trainer, module = fit(stage, measure := Measures(parts, count=3, share=None), tmp_path)
    found = rows(tmp_path)
    assert [int(row["step"]) for row in found] == [2, 4]
    images = [stages.batch(0), {name: values[:1] for name, values in stages.batch(1).items()}]
    space: Any = module.latent_space
    with averaged(trainer, module):
        if isinstance(module, FlowLitModule):
            networks: Any = {AVERAGED: (module.flow_processor, module.text_encoder)}
            expected = evaluate_velocity(space, networks, images).measures
        else:
            expected = evaluate_reconstructions(space, images, None).measures
    for one in expected:
        assert float(found[-1][f"measure/{one.name}"]) == pytest.approx(one.interval.value, rel=1e-4), one.name
    if isinstance(module, FlowLitModule):
        networks = {AVERAGED: (module.flow_processor, module.text_encoder)}
        raw = evaluate_velocity(space, networks, images).measures[0].interval.value
        assert float(found[-1]["measure/velocity_loss_raw"]) == pytest.approx(raw, rel=1e-4)
        assert raw != pytest.approx(expected[0].interval.value, rel=1e-6)
    assert {f"measure/{one.name}" for one in expected} >= set(measure.validation_metrics) - {
        "measure/velocity_loss_raw"
    }


def test_samples_are_compared_with_held_out_images_and_scored_by_their_captions(tmp_path: Path) -> None:
    measure = Measures(["samples", "captions"], count=2, seeds=2, steps=1, share=None)
    fit("flow", measure, tmp_path, steps=2)
    (row,) = rows(tmp_path)
    assert {name for name in row if name.startswith("measure/") and row[name]} == set(measure.validation_metrics)
    assert set(measure.validation_metrics) == {f"measure/{name}" for name in METRICS["samples"] | METRICS["captions"]}


@pytest.mark.parametrize("stage", stages.STAGES)
def test_measuring_changes_nothing_of_the_training(tmp_path: Path, stage: str) -> None:
    part = {"vae": "reconstruction", "flow": "velocity"}[stage]
    weights = []
    for parts in ([part], []):
        _, module = fit(stage, Measures(parts, count=2), tmp_path / str(len(parts)))
        weights.append({name: one.clone() for name, one in module.state_dict().items()})
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_it_keeps_to_its_share_but_for_the_first_and_the_last(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    fit("vae", Measures(["reconstruction"], count=2, share=1e-9), tmp_path, steps=8)
    assert [int(row["step"]) for row in rows(tmp_path)] == [2, 8]
    left_out = [record.getMessage() for record in caplog.records if "is not measured" in record.getMessage()]
    assert [line.split(" is ")[0] for line in left_out] == ["step 4", "step 6"]


def test_a_measure_makes_the_best_checkpoint(tmp_path: Path) -> None:
    module = stages.STAGES["vae"]()
    measure = Measures(["reconstruction"], count=2, share=None)
    best = Checkpoints(tmp_path, every=100, sample_size=16, monitor="measure/ms_ssim")
    stages.fit(
        module, EMA(), measure, best, steps=4, val_check_interval=2, check_val_every_n_epoch=None, limit_val_batches=2
    )
    assert (tmp_path / "checkpoints/best.ckpt").is_file()
    assert -1 <= best.best <= 0, "of −MS-SSIM"


@pytest.mark.parametrize(
    ("options", "monitor", "words"),
    [
        ({"parts": ["velocity"]}, "val/loss", "it can be reconstruction"),
        ({"parts": ["reconstruction"]}, "measure/psnr", "callbacks.measures.share=null"),
        ({"parts": [], "share": None}, "measure/psnr", "it can be val/loss"),
    ],
)
def test_what_cannot_be_is_refused(tmp_path: Path, options: dict[str, Any], monitor: str, words: str) -> None:
    best = Checkpoints(tmp_path, every=100, sample_size=16, monitor=monitor)
    with pytest.raises(ConfigError, match=words):
        stages.fit(stages.STAGES["vae"](), Measures(**options), best, steps=1)
