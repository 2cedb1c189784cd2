import logging
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from lightning import Callback, Trainer

from fluxflow import files
from fluxflow.errors import ConfigError, StorageError
from fluxflow.training.callbacks import checkpoints
from fluxflow.training.callbacks.checkpoints import Checkpoints
from fluxflow.training.callbacks.interruption import Interruption
from tests.training.callbacks import standin


@pytest.fixture(autouse=True)
def exported(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    """The weight at each export of the model folder, in place of the folder."""
    weights: list[float] = []
    monkeypatch.setattr(Checkpoints, "_export", lambda self, trainer, module: weights.append(module.weight.item()))
    return weights


def run(
    folder: Path, *others: Callback, steps: int, every: int = 4, resume: Path | None = None, patience: int | None = None
) -> Trainer:
    trainer = standin.trainer(*others, Checkpoints(folder, every, sample_size=1, patience=patience), steps=steps)
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


def test_best_is_the_largest_value_where_higher_is_better(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(standin.Module, "validation_metrics", {"val/loss": "higher"})
    run(tmp_path, steps=8)
    assert step_of(tmp_path / "checkpoints" / "best.ckpt") == 8


def test_a_run_stops_when_nothing_becomes_better(tmp_path: Path, exported: list[float]) -> None:
    """Validation at 2, 4, 6 and 8 gives 3, 1, 2 and 4: two without a better one, also over a resumed run."""
    assert run(tmp_path, steps=20, patience=2).global_step == 8
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 8
    run(tmp_path / "other", steps=6)
    assert (
        run(tmp_path / "other", steps=20, patience=2, resume=tmp_path / "other/checkpoints/last.ckpt").global_step == 8
    )


@pytest.mark.parametrize(("monitor", "patience"), [("val/fid", None), ("val/loss", 0)])
def test_what_cannot_be_monitored_is_refused(tmp_path: Path, monitor: str, patience: int | None) -> None:
    trainer = standin.trainer(Checkpoints(tmp_path, 4, 1, monitor, patience), steps=2)
    with pytest.raises(ConfigError, match=r"callbacks.checkpoints"):
        trainer.fit(standin.Module(), standin.Data())


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


def full_at(monkeypatch: pytest.MonkeyPatch, *writes: int) -> list[str]:
    """The disk is full at these checkpoints, counted from 1; gives the names of all that were tried."""
    tried: list[str] = []
    replacing = files.replacing

    def counted(path: Path) -> object:
        tried.append(path.name)
        if len(tried) in writes:
            raise StorageError(f"{path} cannot be written: No space left on device.")
        return replacing(path)

    monkeypatch.setattr(checkpoints, "replacing", counted)
    return tried


def test_a_full_disk_is_said_and_tried_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    tried = full_at(monkeypatch, 3)  # best.ckpt at 2 and 4, last.ckpt at 4, 8 and 10
    with caplog.at_level(logging.WARNING):
        run(tmp_path, steps=10)
    assert tried == ["best.ckpt", "best.ckpt", "last.ckpt", "last.ckpt", "last.ckpt"]
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 10
    (told,) = [record.getMessage() for record in caplog.records if "No space" in record.getMessage()]
    assert told.endswith("last.ckpt cannot be written: No space left on device. The run goes on and saves again.")


def test_it_stops_after_three_saves_or_with_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    full_at(monkeypatch, 4, 5, 6)  # best and last at 2 and 4, last at 6 and 8
    with pytest.raises(StorageError, match=r"The run stops at step 8: make room, and go on with resume=auto\."):
        run(tmp_path, steps=100, every=2)
    assert step_of(tmp_path / "checkpoints" / "last.ckpt") == 2
    full_at(monkeypatch, 2)
    with pytest.raises(StorageError, match="The run stops at step 3"):
        run(tmp_path / "short", steps=3)
    assert [path.name for path in (tmp_path / "short" / "checkpoints").iterdir()] == ["best.ckpt"]


def test_a_best_checkpoint_that_was_not_written_is_not_remembered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    full_at(monkeypatch, 2)  # of the loss 1 at step 4; 2 at step 6 is better than what is there
    run(tmp_path, steps=6, every=6)
    assert step_of(tmp_path / "checkpoints" / "best.ckpt") == 6


def test_a_model_that_the_disk_refuses_is_a_save_that_failed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    exports: list[int] = []

    def export(self: Checkpoints, trainer: Trainer, module: object) -> None:
        exports.append(trainer.global_step)
        if len(exports) == 1:
            raise StorageError("model/x cannot be written: Disk quota exceeded.")

    monkeypatch.setattr(Checkpoints, "_export", export)
    run(tmp_path, steps=8)
    assert exports == [4, 8]


@pytest.mark.parametrize("there", [True, False])
def test_a_resumed_run_first_writes_the_model_that_is_not_there(
    there: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, exported: list[float]
) -> None:
    run(tmp_path, steps=4)
    monkeypatch.setattr(checkpoints, "is_exported", lambda folder, step: there and step == 4)
    exported.clear()
    run(tmp_path, steps=4, resume=tmp_path / "checkpoints" / "last.ckpt")
    assert len(exported) == (not there)


def test_checkpoints_do_not_pass_through_tmpdir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path / "nowhere"))
    renamed: list[tuple[Path, Path]] = []
    rename: Callable[[Path, Path], Path] = Path.replace
    monkeypatch.setattr(Path, "replace", lambda self, target: renamed.append((self, target)) or rename(self, target))
    run(tmp_path, steps=4)
    assert {target.name for _, target in renamed} == {"best.ckpt", "last.ckpt"}
    assert all(source.parent == target.parent for source, target in renamed)
    assert sorted(path.name for path in (tmp_path / "checkpoints").iterdir()) == ["best.ckpt", "last.ckpt"]


def test_another_monitor_has_another_best(tmp_path: Path) -> None:
    found = Checkpoints(tmp_path, 4, 1, monitor="val/psnr")
    found.load_state_dict({"best": 0.5, "monitor": "val/loss"})
    assert found.best == float("inf")
    found.load_state_dict({"best": 0.25, "monitor": "val/psnr"})
    assert found.best == 0.25
