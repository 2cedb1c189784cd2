from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer

from fluxflow.training.callbacks import Checkpoints, Interruption
from tests.training.callbacks import standin


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The weight at each export of the model folder, in place of the folder."""
    weights: list[float] = []
    monkeypatch.setattr(Checkpoints, "_export", lambda self, trainer, module: weights.append(module.weight.item()))
    return weights


def run(folder: Path, *others: Callback, steps: int, every: int = 4, resume: Path | None = None) -> Trainer:
    trainer = standin.trainer(*others, Checkpoints(folder, every, sample_size=1), steps=steps)
    trainer.fit(standin.Module(), standin.Data(), ckpt_path=resume, weights_only=True)
    return trainer


def step_of(checkpoint: Path) -> int:
    return torch.load(checkpoint, weights_only=True)["global_step"]


def test_the_tail_is_saved(tmp_path: Path, exported: list[float]) -> None:
    run(tmp_path, steps=10)
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 10
    assert len(exported) == 3  # at 4, 8 and 10


def test_best_is_the_smallest_validation_loss(tmp_path: Path) -> None:
    run(tmp_path, steps=8)  # validation at 2, 4, 6 and 8 gives 3, 1, 2 and 4
    assert step_of(tmp_path / "checkpoints" / "best.ckpt") == 4


def test_a_resumed_run_goes_on_at_its_step_and_remembers_the_best(tmp_path: Path) -> None:
    last = tmp_path / "checkpoints" / "last.ckpt"
    run(tmp_path, steps=5)
    trainer = run(tmp_path, steps=9, resume=last)
    assert trainer.global_step == step_of(last) == 9
    assert step_of(tmp_path / "checkpoints" / "best.ckpt") == 4


def test_what_is_saved_at_a_validation_knows_its_result(tmp_path: Path) -> None:
    run(tmp_path, steps=4)  # validation at 2 and 4 gives 3 and 1
    state = torch.load(tmp_path / "checkpoints" / "last.ckpt", weights_only=True)["callbacks"]
    assert next(value for name, value in state.items() if name.startswith("Checkpoints"))["best"] == 1.0


def test_an_interrupted_run_loses_nothing(tmp_path: Path) -> None:
    class Stop(Callback):
        def on_train_batch_start(self, trainer: Trainer, *_: object) -> None:
            trainer.should_stop = trainer.global_step == 2

    run(tmp_path, Stop(), Interruption(), steps=100)
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 3
