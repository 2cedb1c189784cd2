import logging
import pickle
from pathlib import Path

import pytest
import torch

from fluxflow.checkpoint import read_checkpoint, read_first_whole
from fluxflow.errors import CheckpointError


class Payload:
    def __reduce__(self) -> tuple:
        return Path.touch, (Path("touched"),)


def test_reads_plain_containers(tmp_path: Path) -> None:
    torch.save({"state_dict": {"w": torch.ones(2)}, "global_step": 3, "config": {}}, tmp_path / "last.ckpt")
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
    torch.save({"state_dict": {"w": torch.ones(1000)}, "global_step": 3, "config": {"a": [1, 2.0, None]}}, path)
    whole = path.read_bytes()
    for length in (*range(0, 300, 7), *range(300, len(whole), 97)):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match="damaged"):
            read_checkpoint(path)


def test_altered(tmp_path: Path) -> None:
    """Bytes of the pickle inside, which the archive does not check."""
    path = tmp_path / "last.ckpt"
    torch.save({"state_dict": {"w": torch.ones(4)}, "global_step": 3, "config": {"a": [1, 2.0, None]}}, path)
    whole = path.read_bytes()
    start = whole.index(b"state_dict") - 20
    refused = 0
    for place in range(start, start + 250):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 0x55]) + whole[place + 1 :])
        try:
            read_checkpoint(path)
        except CheckpointError:
            refused += 1
    assert refused > 100


def test_missing_or_foreign(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="There is no checkpoint"):
        read_checkpoint(tmp_path / "last.ckpt")
    torch.save([1, 2], tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="no state_dict"):
        read_checkpoint(tmp_path / "last.ckpt")
    torch.save({"state_dict": {}, "global_step": 3}, tmp_path / "last.ckpt")
    with pytest.raises(CheckpointError, match="no config"):
        read_checkpoint(tmp_path / "last.ckpt")


def test_what_is_damaged_is_passed_over_by_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    last, best = tmp_path / "last.ckpt", tmp_path / "best.ckpt"
    torch.save({"state_dict": {"w": torch.ones(1000)}, "global_step": 4, "config": {}}, last)
    torch.save({"state_dict": {}, "global_step": 2, "config": {}}, best)
    whole = last.read_bytes()
    with caplog.at_level(logging.WARNING):
        assert read_first_whole([last, best])[0] == last
        assert not caplog.records
        for length in (0, 1, 100, len(whole) // 2, len(whole) - 1):
            last.write_bytes(whole[:length])
            assert read_first_whole([last, best])[0] == best
            assert f"Passed over: {last} is damaged" in caplog.records[-1].getMessage()
    best.write_bytes(b"x")
    with pytest.raises(CheckpointError, match=r"last\.ckpt is damaged"):
        read_first_whole([last, best])
