from pathlib import Path

import pytest

from fluxflow.checkpoint.files import AtomicFiles


def test_nothing_changes_when_writing_fails(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")

    def write_and_fail() -> None:
        with AtomicFiles() as files:
            files.target(tmp_path / "a").write_text("new")
            files.target(tmp_path / "b").write_text("new")
            raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        write_and_fail()
    assert (tmp_path / "a").read_text() == "old"
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_targets_are_untouched_until_the_end(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("old")
    with AtomicFiles() as files:
        files.target(tmp_path / "a").write_text("new")
        files.target(tmp_path / "folder" / "b").write_text("new")
        assert (tmp_path / "a").read_text() == "old"
    assert (tmp_path / "a").read_text() == (tmp_path / "folder" / "b").read_text() == "new"
