from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import LightningModule

from fluxflow.training import EMA, flow, vae
from fluxflow.training.randomness import step_generator
from tests.training import stages


def draw(*identity: int | str) -> list[float]:
    return torch.randn(4, generator=step_generator("cpu", *identity)).tolist()


def test_the_same_identity_draws_the_same() -> None:
    assert draw(0, 1, 2, "flow") == draw(0, 1, 2, "flow")
    assert step_generator("cpu", 0, 1, "flow").initial_seed() == 1816885541813045187  # in every process and version


def test_every_part_of_the_identity_counts() -> None:
    identities = [(0, 1, 23), (1, 0, 23), (0, 12, 3), (0, 1, 2, 3), (0, 1, 24), (0, 1, "23"), (0, 1, 23, "flow")]
    assert len({tuple(draw(*identity)) for identity in identities}) == len(identities)


def accumulating(stage: str, **options: Any) -> tuple[LightningModule, dict[str, int]]:
    """A module that steps every second batch, and what its trainer must know."""
    torch.manual_seed(0)
    if stage == "vae":
        return stages.STAGES[stage](accumulate=2, **options), {}
    return stages.STAGES[stage](**options), {"accumulate_grad_batches": 2}


def losses(stage: str, seed: int = 0, elsewhere: int = 0) -> list[float]:
    module, options = accumulating(stage, seed=seed)
    metrics = stages.Metrics()
    torch.manual_seed(elsewhere)  # the global generator has no part in it
    stages.fit(module, metrics, steps=2, data=stages.Data(period=1), **options)
    return metrics["train/l1_mse" if stage == "vae" else "train/loss"]


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_run_repeats_bit_by_bit_and_another_seed_or_rank_differs(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    first = losses(stage)
    assert losses(stage, elsewhere=1) == first
    assert losses(stage, seed=1) != first
    monkeypatch.setattr({"vae": vae.VAELitModule, "flow": flow.FlowLitModule}[stage], "global_rank", 1)
    assert losses(stage) != first


@pytest.mark.parametrize("stage", stages.STAGES)
def test_no_two_batches_share_a_generator(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []

    def spied(device: torch.device | str, *identity: int | str) -> torch.Generator:
        generator = step_generator(device, *identity)
        seeds.append(generator.initial_seed())
        return generator

    monkeypatch.setattr({"vae": vae, "flow": flow}[stage], "step_generator", spied)
    module, options = accumulating(stage)
    data = stages.Data()
    trainer = stages.fit(module, steps=3, data=data, limit_val_batches=2, val_check_interval=6, **options)
    if stage == "vae":
        trainer.lightning_module.exported_model()  # the noise of two batches for the statistics
    assert len(seeds) == len(set(seeds)) == 8


@pytest.mark.parametrize("stage", stages.STAGES)
def test_a_run_in_two_parts_ends_like_one(stage: str, tmp_path: Path) -> None:
    def run(steps: int, checkpoint: Path | None = None) -> tuple[dict[str, torch.Tensor], EMA]:
        module, options = accumulating(stage)
        ema = EMA()
        torch.manual_seed(steps)  # what the process has drawn before is of no account
        trainer = stages.fit(module, ema, steps=steps, data=stages.Data(batches=2), checkpoint=checkpoint, **options)
        trainer.save_checkpoint(tmp_path / f"{steps}.ckpt")
        return stages.weights(module), ema

    whole, average = run(4)
    half, _ = run(2)
    parts, resumed = run(4, tmp_path / "2.ckpt")
    assert all(torch.equal(parts[name], whole[name]) for name in whole)
    assert all(torch.equal(resumed.average[name], average.average[name]) for name in average.average)
    assert sum(not torch.equal(half[name], whole[name]) for name in whole) > len(whole) / 2
