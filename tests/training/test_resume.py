"""A run that is stopped at any batch and resumed ends as the uninterrupted one, to the last bit."""

import io
import os
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.strategies import DDPStrategy
from PIL import Image

from fluxflow.data import DataModule
from fluxflow.data.sources.shards import ShardReader
from fluxflow.training import EMA
from fluxflow.training.gradients import batches_a_step, forget_begun_step
from tests.data.sources import sized
from tests.training import stages

STEPS = 6


def write_shards(folder: Path) -> Path:
    """Five shards of 16 px pictures, 26 in all, with the captions of the stages."""
    folder.mkdir()
    for shard, size in enumerate((6, 4, 5, 8, 3)):
        with tarfile.open(folder / f"{shard}.tar", "w") as tar:
            for index in range(size):
                batch = stages.batch(10 * shard + index, 1)
                picture = io.BytesIO()
                Image.fromarray(batch["image"][0].permute(1, 2, 0).numpy()).save(picture, "PNG")
                for suffix, content in (("png", picture.getvalue()), ("txt", batch["caption"][0].encode())):
                    member = tarfile.TarInfo(f"{shard}{index}.{suffix}")
                    member.size = len(content)
                    tar.addfile(member, io.BytesIO(content))
    return folder


class Journal(Callback):
    """What happens and with which samples; saves after batch `stop`, or in the validation that follows it, and stops.

    Args:
        stop: Batches after which the run stops; None: it goes on.
        in_validation: Whether to wait for the validation.
        where: The checkpoint.
    """

    def __init__(self, where: Path, stop: int | None = None, in_validation: bool = False) -> None:
        self.where, self.stop, self.in_validation = where, stop, in_validation
        self.events: list[Any] = []

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        self.events.append(("train", trainer.global_step, batch_idx, batch["key"]))

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int) -> None:
        if hasattr(pl_module, "exported_model") and batch_idx == 2:
            pl_module.exported_model()  # the VAE's measures training images
        if batch_idx + 1 == self.stop and not self.in_validation:
            self._stop(trainer)

    def on_validation_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self.events.append(("validation", trainer.global_step))
        batches = trainer.fit_loop.epoch_loop.batch_progress.current.completed
        if batches == self.stop and self.in_validation:
            self._stop(trainer)

    def on_save_checkpoint(self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]) -> None:
        forget_begun_step(checkpoint, batches_a_step(trainer, pl_module))

    def _stop(self, trainer: Trainer) -> None:
        trainer.save_checkpoint(self.where)
        trainer.should_stop = True


def run(
    stage: str, shards: Path, journal: Journal, resume: Path | None = None, *, accumulate: int = 1, workers: int = 0,
    **options: Any,
) -> dict[str, Any]:  # fmt: skip
    """Train a stage up to STEPS; returns all that a checkpoint of its end holds."""
    torch.manual_seed(0)
    module = stages.STAGES[stage]()
    if module.automatic_optimization:
        options["accumulate_grad_batches"] = accumulate
    else:
        module.accumulate = accumulate
    data = DataModule(ShardReader, str(shards), **sized(16), batch_size=2, val_fraction=0.2, num_workers=workers,
                      seed=5, shuffle_shards=2)  # fmt: skip
    trainer = stages.trainer(EMA(0.9), journal, max_steps=STEPS, limit_val_batches=1.0,
                             val_check_interval=2 * accumulate, check_val_every_n_epoch=None, **options)  # fmt: skip
    trainer.fit(module, data, ckpt_path=resume, weights_only=True)
    return trainer._checkpoint_connector.dump_checkpoint()


def assert_same(found: Any, expected: Any, path: str = "") -> None:
    """Equal containers with equal tensors."""
    if isinstance(expected, torch.Tensor):
        assert torch.equal(found, expected), path
    elif isinstance(expected, dict):
        assert found.keys() == expected.keys(), path
        for name in expected:
            assert_same(found[name], expected[name], f"{path}/{name}")
    elif isinstance(expected, (list, tuple)):
        assert len(found) == len(expected), path
        for index, pair in enumerate(zip(found, expected)):
            assert_same(*pair, f"{path}/{index}")
    else:
        assert found == expected, path


def ends_alike(found: dict[str, Any], expected: dict[str, Any]) -> None:
    """Weights, optimizers, averages, the data's state and the step, of two ends of a run."""
    for part in ("state_dict", "optimizer_states", "DataModule", "global_step"):
        assert_same(found[part], expected[part], part)
    average = [next(v for k, v in end["callbacks"].items() if k.startswith("EMA")) for end in (found, expected)]
    assert_same(*average, "EMA")


@pytest.mark.parametrize(
    ("stage", "workers", "accumulate", "stop", "in_validation"),
    [
        ("vae", 0, 1, 3, False),
        ("vae", 2, 2, 6, False),
        ("vae", 0, 1, 4, True),
        ("flow", 0, 1, 1, False),
        ("flow", 2, 1, 5, False),
        ("flow", 0, 3, 7, False),
        ("flow", 0, 3, 1, False),  # before the first step
        ("flow", 0, 1, 6, False),  # at the very end
    ],
)
def test_a_stopped_run_ends_like_an_uninterrupted_one(
    tmp_path: Path, stage: str, workers: int, accumulate: int, stop: int, in_validation: bool
) -> None:
    shards, options = write_shards(tmp_path / "shards"), {"accumulate": accumulate, "workers": workers}
    whole = Journal(tmp_path / "unused.ckpt")
    expected = run(stage, shards, whole, **options)
    run(stage, shards, Journal(tmp_path / "one.ckpt", stop, in_validation), **options)
    again = Journal(tmp_path / "two.ckpt", stop + accumulate)
    run(stage, shards, again, tmp_path / "one.ckpt", **options)
    last = Journal(tmp_path / "unused.ckpt")
    found = run(stage, shards, last, tmp_path / ("two.ckpt" if again.where.exists() else "one.ckpt"), **options)
    ends_alike(found, expected)
    assert last.events == (whole.events[-len(last.events) :] if last.events else [])
    first = next((event[2] for event in last.events if event[0] == "train"), STEPS * accumulate)
    assert first == min((stop + accumulate) // accumulate * accumulate, STEPS * accumulate)


@pytest.mark.slow  # processes of their own
def test_two_ranks_end_alike(tmp_path: Path) -> None:
    write_shards(tmp_path / "shards")
    stages.run_two_ranks([sys.executable, "-m", "tests.training.test_resume", str(tmp_path)], timeout=600)
    keys = [torch.load(tmp_path / f"keys{rank}.pt", weights_only=True) for rank in (0, 1)]
    assert not set(keys[0]) & set(keys[1])  # of the first epoch


def one_rank(folder: Path) -> None:
    """As one of two processes: an uninterrupted run of each stage, and one that is stopped and resumed."""
    for stage in stages.STAGES:
        for workers, stop in ((0, 4), (2, 6)):
            strategy = {"strategy": "ddp", "devices": 2, "accumulate": 2, "workers": workers}

            def options(given: dict[str, Any] = strategy) -> dict[str, Any]:
                strategy = DDPStrategy(find_unused_parameters=True, process_group_backend="gloo")
                return given | {"strategy": strategy}

            whole, last = Journal(folder / "unused"), Journal(folder / "unused")
            expected = run(stage, folder / "shards", whole, **options())
            where = folder / f"{stage}{workers}.ckpt"
            run(stage, folder / "shards", Journal(where, stop), **options())
            found = run(stage, folder / "shards", last, where, **options())
            ends_alike(found, expected)
            assert len(expected["DataModule"]["ranks"]) == 2
            assert last.events == whole.events[-len(last.events) :]
    rank = int(os.environ["LOCAL_RANK"])
    torch.save(
        [key for event in whole.events[:4] if event[0] == "train" for key in event[3]], folder / f"keys{rank}.pt"
    )


if __name__ == "__main__":
    one_rank(Path(sys.argv[1]))
