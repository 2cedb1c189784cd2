import itertools

import pytest
import torch
import torch.distributed
from lightning import LightningModule, Trainer

from fluxflow.data import DataModule
from fluxflow.data.folder import FolderReader
from fluxflow.data.shards import ShardReader
from fluxflow.errors import ConfigError, DataError


def all_keys(loader, batches: int | None = None) -> list[str]:
    return [key for batch in itertools.islice(loader, batches) for key in batch["key"]]


def module(reader, train, **options) -> DataModule:
    numbers = {"image_size": 8, "batch_size": 4, "val_fraction": 0.3} | options
    data = DataModule(reader, str(train), **numbers)
    data.setup()
    return data


def test_held_out_part_never_appears_in_training(make_folder):
    data = module(FolderReader, make_folder(40))
    train, val = set(all_keys(data.train_dataloader(), 30)), all_keys(data.val_dataloader())
    assert train
    assert val
    assert not train & set(val)
    assert len(train | set(val)) == 40
    assert all_keys(data.val_dataloader()) == val


def test_folder_and_its_shards_hold_out_the_same_pictures(make_folder, make_tar, picture):
    folder = make_folder(30)
    members = {p.relative_to(folder).as_posix().replace("p.", "p_"): p.read_bytes()
               for p in sorted(folder.rglob("*.*g")) + sorted(folder.rglob("*.txt"))}  # fmt: skip
    tar = make_tar("folder.tar", dict(sorted(members.items())))
    parts = [set(all_keys(module(*source).val_dataloader())) for source in ((FolderReader, folder), (ShardReader, tar))]
    assert parts[0] == parts[1]


def test_separate_validation_source_leaves_all_of_train(make_shards):
    train, val = make_shards(10), make_shards(3, folder="val")
    data = module(ShardReader, train, val=str(val), val_batch_size=2)
    assert len(set(all_keys(data.train_dataloader(), 5))) == 10
    assert [len(batch["key"]) for batch in data.val_dataloader()] == [2, 1]


def test_ranks_of_torch_distributed_share_the_work(make_folder, monkeypatch):
    data, shares = module(FolderReader, make_folder(40), batch_size=1, val_samples=6), []
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    for rank in (0, 1):
        monkeypatch.setattr(torch.distributed, "get_rank", lambda rank=rank: rank)
        shares.append((set(all_keys(data.train_dataloader(), 10)), set(all_keys(data.val_dataloader()))))
    assert not shares[0][0] & shares[1][0]
    assert not shares[0][1] & shares[1][1]
    assert len(shares[0][1] | shares[1][1]) == 6


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("val_fraction", 0.0),
        ("val_fraction", 1.0),
        ("batch_size", 0),
        ("val_samples", 0),
        ("flip", 2.0),
    ],
)
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"data\.{name} is {value}"):
        module(FolderReader, "unread", **{name: value})


def test_missing_data_is_named_in_setup(make_folder, tmp_path):
    data = DataModule(FolderReader, str(make_folder(2)), str(tmp_path / "no"), image_size=8, batch_size=1)
    with pytest.raises(DataError, match=r"no folder .*no:"):
        data.setup()


class Recorder(LightningModule):
    """Trains one number and writes down the keys it sees."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = torch.nn.Parameter(torch.zeros(()))
        self.train_keys: list[str] = []
        self.val_keys: list[str] = []

    def training_step(self, batch, index):
        self.train_keys += batch["key"]
        return self.weight * batch["image"].float().mean()

    def validation_step(self, batch, index):
        self.val_keys += batch["key"]

    def configure_optimizers(self):
        return torch.optim.SGD(self.parameters(), lr=0.1)


def test_trainer_validates_in_steps_and_a_resumed_run_sees_another_order(make_folder, tmp_path):
    data = module(FolderReader, make_folder(40))

    def fit(steps: int, resume: str | None = None) -> tuple[Recorder, Trainer]:
        trainer = Trainer(
            accelerator="cpu", max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None, logger=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            default_root_dir=tmp_path, num_sanity_val_steps=0,
        )  # fmt: skip
        recorder = Recorder()
        trainer.fit(recorder, datamodule=data, ckpt_path=resume)
        return recorder, trainer

    first, trainer = fit(4)
    assert len(first.train_keys) == 16
    assert first.val_keys == 2 * all_keys(data.val_dataloader())
    assert data.start_step == 0
    trainer.save_checkpoint(tmp_path / "last.ckpt")
    resumed, trainer = fit(6, str(tmp_path / "last.ckpt"))
    assert trainer.global_step == 6
    assert data.start_step == 4
    assert resumed.train_keys != first.train_keys[:8]
