import os
import resource
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from fluxflow import files
from fluxflow.errors import StorageError
from fluxflow.files import append_whole, remove_partial, replacing, storage_errors

FULL = OSError(28, "No space left on device")


def write_and_fail(path: Path, error: BaseException) -> None:
    with replacing(path) as file:
        file.write(b"half")
        raise error


def test_a_file_is_replaced_at_the_end_or_not_at_all(tmp_path: Path) -> None:
    path = tmp_path / "folder" / "a"
    with replacing(path) as file:
        file.write(b"old")
        assert not path.exists()
    for error, raised in ((FULL, StorageError), (ZeroDivisionError(), ZeroDivisionError), (KeyError("x"), KeyError)):
        with pytest.raises(raised):
            write_and_fail(path, error)
        assert path.read_bytes() == b"old"
        assert [file.name for file in path.parent.iterdir()] == ["a"]


def test_it_is_on_the_disk_before_it_has_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order = []
    fsync, rename = os.fsync, Path.replace
    monkeypatch.setattr(files.os, "fsync", lambda descriptor: (order.append("sync"), fsync(descriptor)))
    monkeypatch.setattr(Path, "replace", lambda self, target: (order.append("rename"), rename(self, target)))
    with replacing(tmp_path / "a") as file:
        file.write(b"x")
    assert order == ["sync", "rename", "sync"]  # the file, its name, the folder


@pytest.mark.parametrize(
    ("place", "reason"), [("file/a", r"(Not a directory|File exists)"), ("folder", "Is a directory")]
)
def test_places_that_cannot_be_written_are_one_sentence(place: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "folder").mkdir()
    with pytest.raises(StorageError, match=rf"{place} cannot be written: {reason}\."), replacing(tmp_path / place):
        pass
    assert sorted(path.name for path in tmp_path.iterdir()) == ["file", "folder"]


def test_what_torch_makes_of_a_full_disk_is_that_sentence(tmp_path: Path) -> None:
    """In a process whose files cannot grow: the limit answers as a full disk does, with another number."""
    code = (
        "import resource, sys, torch\nfrom pathlib import Path\nfrom fluxflow.files import replacing\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (200_000, 200_000))\n"
        "with replacing(Path(sys.argv[1])) as file:\n"
        "    torch.save({f'w{i}': torch.ones(100, 100) for i in range(20)}, file)\n"
    )
    torch.save({"old": torch.ones(1)}, tmp_path / "last.ckpt")
    command = [sys.executable, "-c", code, str(tmp_path / "last.ckpt")]
    root = Path(__file__).parents[1]
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=root)
    assert "StorageError" in done.stderr.splitlines()[-1]
    assert done.stderr.splitlines()[-1].endswith("last.ckpt cannot be written: File too large.")
    assert torch.load(tmp_path / "last.ckpt", weights_only=True).keys() == {"old"}
    assert len(list(tmp_path.iterdir())) == 1


def test_other_errors_pass(tmp_path: Path) -> None:
    for error in (FileNotFoundError(2, "x"), RuntimeError("x"), ConnectionError(104, "x")):
        with pytest.raises(type(error)), storage_errors(tmp_path):
            raise error


def test_what_is_appended_is_whole(tmp_path: Path) -> None:
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    with (tmp_path / "a").open("ab") as file:
        append_whole(file.fileno(), b"first\n")
        resource.setrlimit(resource.RLIMIT_FSIZE, (100, limits[1]))
        try:
            with pytest.raises(OSError, match="File too large"):
                append_whole(file.fileno(), b"x" * 200)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        append_whole(file.fileno(), b"second\n")
    assert (tmp_path / "a").read_text() == "first\nsecond\n"


def test_only_what_killed_writers_left_is_removed(tmp_path: Path) -> None:
    names = ["checkpoints/last.ckpt.4711.part", "disc.part", "last.ckpt", "a.b.part"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    remove_partial(tmp_path)
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.rglob("*.*"))
    assert left == sorted(names[1:])
