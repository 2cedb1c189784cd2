import os
import socket

import pytest

from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.matching import Listing, read_regular
from fluxflow.data.sources.records import Unusable, ordered
from fluxflow.errors import DataError


def records(root, **options) -> dict[str, str]:
    """The captions, or else the problem, of each picture of a folder."""
    reader = FolderReader(str(root), **options)
    reader.open()
    assert len(reader.fingerprint()) == 64
    return {record.key: record.problem or "|".join(record.captions) for record in ordered(reader)}


def test_pictures_behind_linked_folders_are_read_once(make_folder, tmp_path):
    root, other = make_folder(2), make_folder(3, "other")
    (root / "more").symlink_to(other, target_is_directory=True)
    (root / "again").symlink_to(other, target_is_directory=True)
    (root / "a").symlink_to(root / "even", target_is_directory=True)  # the way without links counts
    (root / "even" / "up").symlink_to("..", target_is_directory=True)
    (other / "ring").symlink_to(root, target_is_directory=True)
    (root / "one.png").symlink_to(other / "p.1.png")
    (root / "one.txt").symlink_to(other / "p.1.txt")
    assert records(root) == {
        "again/even/p_0": "caption 0", "again/even/p_2": "caption 2", "again/p_1": "caption 1", "even/p_0": "caption 0",
        "one": "caption 1", "p_1": "caption 1",
    }  # fmt: skip


def test_links_that_lead_nowhere_are_rejected_samples(make_folder):
    root = make_folder(3)
    (root / "gone.png").symlink_to("nowhere.png")
    (root / "self.jpg").symlink_to("self.jpg")
    (root / "unmounted").symlink_to("/nowhere")
    (root / "README.md").symlink_to("/nowhere")
    (root / "p.1.txt").unlink()
    (root / "p.1.txt").symlink_to("nowhere")
    gone = "unreadable file (No such file or directory)"
    assert records(root) == {
        "even/p_0": "caption 0", "even/p_2": "caption 2", "gone": gone, "p_1": gone, "unmounted": gone,
        "self": "unreadable file (Too many levels of symbolic links)",
    }  # fmt: skip


def test_pipes_sockets_and_devices_are_not_waited_for(make_folder, monkeypatch):
    root = make_folder(3)
    os.mkfifo(root / "pipe.png")
    os.mkfifo(root / "metadata.jsonl")
    os.mkfifo(root / "captions.json")
    (root / "p.1.txt").unlink()
    os.mkfifo(root / "p.1.txt")
    (root / "null.webp").symlink_to("/dev/null")
    monkeypatch.chdir(root)
    with socket.socket(socket.AF_UNIX) as server:
        server.bind("socket.jpg")
        found = records(root)
    assert found == {"even/p_0": "caption 0", "even/p_2": "caption 2"} | dict.fromkeys(
        ("pipe", "p_1", "null", "socket"), "no regular file"
    )


def test_a_folder_that_cannot_be_read_is_a_rejected_sample(make_folder, monkeypatch):
    root, scandir = make_folder(2), os.scandir
    (root / "locked").mkdir()

    def refused(path):
        if str(path).endswith(("locked", "nobody")):
            raise PermissionError(13, "Permission denied", str(path))
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refused)
    assert records(root) == {"even/p_0": "caption 0", "locked/": "unreadable folder", "p_1": "caption 1"}
    with pytest.raises(DataError, match="nobody cannot be read: Permission denied"):
        Listing(make_folder(1, "nobody"))


def test_files_have_a_size_that_is_borne(tmp_path):
    with (tmp_path / "x").open("wb") as file:
        file.truncate(3 << 20)
    with pytest.raises(Unusable, match="file above 2 MiB"):
        read_regular(tmp_path / "x", 2 << 20)
    assert len(read_regular(tmp_path / "x", 3 << 20)) == 3 << 20
    assert read_regular(tmp_path / "x", 3 << 20, 5) == bytes(5)


def test_captions_and_pictures_of_gigabytes_are_rejected(make_folder):
    root = make_folder(3)
    for name in ("p.1.txt", "even/p.2.png"):
        with (root / name).open("r+b") as file:
            file.truncate(9 << 30)
    assert records(root) == {"even/p_0": "caption 0", "even/p_2": "file above 512 MiB", "p_1": "file above 1 MiB"}
