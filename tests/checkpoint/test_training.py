import pickle
from pathlib import Path

import pytest
import torch

from fluxflow.checkpoint import read_checkpoint
from fluxflow.errors import CheckpointError


class Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


def test_reads_plain_containers(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "global_step": 3}, tmp_path / "last.ckpt")
    content = read_checkpoint(tmp_path / "last.ckpt")
    assert content["global_step"] == 3
    assert torch.equal(content["state_dict"]["w"], torch.ones(2))


def test_runs_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": Payload()}, tmp_path / "new.ckpt")
    (tmp_path / "old.ckpt").write_bytes(pickle.dumps({"state_dict": Payload()}))
    for name in ("new.ckpt", "old.ckpt"):
        with pytest.raises(CheckpointError, match="damaged or no checkpoint"):
            read_checkpoint(tmp_path / name)
    assert not Path("touched").exists()


def test_truncated(tmp_path: Path) -> None:
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1000)}}, path)
    path.write_bytes(path.read_bytes()[:1000])
    with pytest.raises(CheckpointError, match="damaged"):
        read_checkpoint(path)


def test_missing_or_foreign(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    torch.save([1, 2], tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_checkpoint(tmp_path / "last.ckpt")
