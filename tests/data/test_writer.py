import hashlib
import os
import tarfile

import pytest

from fluxflow.data.prepare.shard_writer import ShardWriter
from fluxflow.errors import DataError


def test_a_tar_depends_on_its_content_alone_and_its_entry_agrees_with_it(tmp_path):
    for folder in ("one", "two"):
        with ShardWriter(tmp_path / folder / "x.tar") as writer:
            writer.write("b/ä", {"png": b"123", "txt": "grün".encode()})
            writer.write("a", {"jpg": b"", "json": b"{}"})
        os.utime(tmp_path / "one" / "x.tar", (1, 1))
    data = (tmp_path / "one" / "x.tar").read_bytes()
    assert data == (tmp_path / "two" / "x.tar").read_bytes()
    digest = hashlib.sha256(data).hexdigest()
    assert writer.entry() == {"name": "x.tar", "samples": 2, "bytes": len(data), "sha256": digest}
    with tarfile.open(tmp_path / "one" / "x.tar") as tar:
        members = tar.getmembers()
        assert tar.extractfile(members[1]).read() == "grün".encode()  # type: ignore[union-attr]
    assert [member.name for member in members] == ["b/ä.png", "b/ä.txt", "a.jpg", "a.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.mode) for m in members} == {(0, 0, 0, "", 0o644)}


def test_no_sample_no_tar(tmp_path):
    with ShardWriter(tmp_path / "x" / "x.tar") as writer:
        pass
    assert writer.entry() == {}
    assert list(tmp_path.iterdir()) == []


def test_a_failure_leaves_nothing(tmp_path):
    def fail() -> None:
        with ShardWriter(tmp_path / "x.tar") as writer:
            writer.write("a", {"png": b"1"})
            assert len(list(tmp_path.iterdir())) == 1
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail()
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_named(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with (
        pytest.raises(DataError, match=r"x\.tar cannot be written: No space left on device. Mend that"),
        ShardWriter(tmp_path / "x.tar") as writer,
    ):
        writer.write("a", {"png": b"1"})
    assert not (tmp_path / "x.tar").exists()
