import itertools
import json
import multiprocessing
from collections import Counter

import pytest
import torch
import torch.distributed
from lightning import LightningModule, Trainer

from fluxflow.data import DataModule
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.shards import ShardReader
from fluxflow.errors import ConfigError, DataError
from tests.data.sources import sized


def all_keys(loader, batches: int | None = None) -> list[str]:
    return [key for batch in itertools.islice(loader, batches) for key in batch["key"]]


def module(reader, train, **options) -> DataModule:
    numbers = {**sized(8), "batch_size": 4, "val_fraction": 0.3} | options
    data = DataModule(reader, str(train), **numbers)
    data.setup()
    return data


def test_held_out_split_never_appears_in_training(make_folder):
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
    splits = [
        set(all_keys(module(*source).val_dataloader())) for source in ((FolderReader, folder), (ShardReader, tar))
    ]
    assert splits[0] == splits[1]


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
    ],
)
def test_impossible_numbers_are_refused(name, value):
    with pytest.raises(ConfigError, match=rf"data\.{name} is {value}"):
        module(FolderReader, "unread", **{name: value})


def test_missing_data_is_named_in_setup(make_folder, tmp_path):
    data = DataModule(FolderReader, str(make_folder(2)), str(tmp_path / "no"), **sized(8), batch_size=1)
    with pytest.raises(DataError, match=r"no folder .*no:"):
        data.setup()


MIXED = {"a": {"path": "x", "weight": 2}, "b": {"path": "y"}}


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"sources": MIXED | {"c": {"pth": "z"}}}, r"unknown key 'data\.sources\.c\.pth': did you mean 'path'\?"),
        ({"sources": MIXED | {"c": {"weight": 1}}}, r"data\.sources\.c needs a path"),
        ({"sources": MIXED | {"c": {"path": "z", "weight": 0}}}, r"data\.sources\.c needs .* a weight above 0"),
        ({"sources": MIXED, "val": None}, r"mixes several sets: name the one to validate on"),
        ({"sources": MIXED, "train": "x"}, "give one"),
        ({"train": None}, "give one"),
        ({"train": "x", "max_bad_fraction": 1.5}, r"data\.max_bad_fraction is 1\.5"),
    ],
)
def test_sources_that_cannot_work_are_refused(options, message):
    with pytest.raises(ConfigError, match=message):
        DataModule(FolderReader, **({"val": "v", **sized(8), "batch_size": 1} | options))


def test_sources_are_mixed_by_weight(make_shards):
    paths = {name: str(make_shards(4, 5, folder=name)) for name in ("a", "b", "val")}
    sources = {"a": {"path": paths["a"], "weight": 3}, "b": {"path": paths["b"]}}
    data = DataModule(ShardReader, sources=sources, val=paths["val"], **sized(8), batch_size=4)
    data.setup()
    state = list(itertools.islice(data.train_dataloader(), 90))[-1]["state"]["workers"][0]
    epochs = [state["cursors"][name]["progress"] for name in ("a", "b")]
    assert epochs == pytest.approx([30, 10], abs=0.5)
    assert len(all_keys(data.val_dataloader())) == 9


@pytest.mark.parametrize("workers", [0, 2])
def test_rejected_samples_are_written_once(make_shards, tmp_path, workers):
    path, bad = tmp_path / "run" / "rejected.jsonl", frozenset({1, 7, 12, 19})
    shards = make_shards(10, 10, bad=bad)
    for _ in range(2):
        data = module(ShardReader, shards, num_workers=workers, max_bad_fraction=0.5, rejected=str(path))
        all_keys(data.train_dataloader(), 40)
        all_keys(data.val_dataloader())
        next(data.first_batches())
        data.teardown()
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert Counter(row["key"] for row in rows) == Counter(f"s{n}" for n in bad)
    assert {row["reason"] for row in rows} == {"not a JPEG, PNG or WebP picture"}
    assert {row["source"] for row in rows} == {str(shards / "00.tar"), str(shards / "01.tar")}


def test_too_many_bad_samples_stop_the_run(make_shards):
    shards = make_shards(*[10] * 4, bad=frozenset(range(0, 40, 8)))
    with pytest.raises(DataError, match=r"of 2\d\d samples that were read cannot be used: .*max_bad_fraction=0\.1"):
        all_keys(module(ShardReader, shards, max_bad_fraction=0.1).train_dataloader(), 100)
    all_keys(module(ShardReader, shards, max_bad_fraction=0.2).train_dataloader(), 100)


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


def fit(data: DataModule, folder, steps: int, resume: str | None = None) -> tuple[Recorder, Trainer]:
    trainer = Trainer(
        accelerator="cpu", max_steps=steps, val_check_interval=2, check_val_every_n_epoch=None, logger=False,
        enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
        default_root_dir=folder, num_sanity_val_steps=0,
    )  # fmt: skip
    recorder = Recorder()
    trainer.fit(recorder, datamodule=data, ckpt_path=resume, weights_only=True)
    return recorder, trainer


def test_trainer_validates_in_steps_and_a_resumed_run_sees_what_it_would_have_seen(make_folder, tmp_path):
    folder, last = make_folder(40), tmp_path / "last.ckpt"
    whole, _ = fit(module(FolderReader, folder), tmp_path, 9)
    assert whole.val_keys == 4 * all_keys(module(FolderReader, folder).val_dataloader())
    seen: list[str] = []
    for steps in (4, 5, 9):
        recorder, trainer = fit(module(FolderReader, folder), tmp_path, steps, str(last) if seen else None)
        assert trainer.global_step == steps
        seen += recorder.train_keys
        trainer.save_checkpoint(last)
    assert seen == whole.train_keys


def test_the_state_is_of_the_batch_that_was_trained_on(make_folder, tmp_path):
    """Not of those that were fetched since; and what else reads training pictures leaves it alone."""
    data = module(FolderReader, make_folder(40))
    fit(data, tmp_path, 3)
    states = [
        batch["state"] for batch in itertools.islice(module(FolderReader, tmp_path / "pictures").train_dataloader(), 3)
    ]
    first = [next(data.first_batches())["key"] for _ in range(2)]
    assert data.state_dict()["ranks"] == [states[2]]
    assert first[0] == first[1] == next(iter(module(FolderReader, tmp_path / "pictures").train_dataloader()))["key"]
    fit(data, tmp_path, 2)  # a second run of the same DataModule begins anew
    assert data.state_dict()["ranks"] == [states[1]]


def test_a_state_holds_plain_containers_alone(make_folder, tmp_path):
    data = module(FolderReader, make_folder(40))
    fit(data, tmp_path, 3)
    assert json.loads(json.dumps(data.state_dict())) == data.state_dict()


def test_no_worker_outlives_its_run(make_folder, tmp_path):
    data = module(FolderReader, make_folder(40), num_workers=2)
    _, trainer = fit(data, tmp_path, 3)
    assert trainer.global_step == 3
    assert multiprocessing.active_children() == []
