import filecmp
import io
import subprocess
import sys
import tarfile

import pytest
from PIL import Image

from fluxflow.data.folder import FolderReader
from fluxflow.data.prepare import main
from fluxflow.data.records import Part
from fluxflow.data.shards import ShardReader


def records(reader) -> dict:
    reader.open()
    return {record.key: record for record in reader.ordered(Part())}


def test_folder_to_shards_keeps_keys_bytes_and_captions(make_folder, tmp_path, capsys):
    folder, out = make_folder(12), tmp_path / "out"
    assert main([str(folder), str(out), "--shard-samples", "5", "--val-fraction", "0.3"]) == 0
    assert (
        f"12 samples. To train on them: data=shards data.train={out / 'train'} data.val={out / 'val'}"
        in capsys.readouterr().out
    )
    train, val = (records(ShardReader(str(out / part))) for part in ("train", "val"))
    assert train.keys().isdisjoint(val)
    assert train | val == records(FolderReader(str(folder)))
    assert set(val) == {key for key in train | val if key in Part(0.3, held_out=True)}


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_same_input_gives_the_same_bytes_whatever_the_threads(make_folder, make_shards, tmp_path, source):
    path = make_folder(9) if source == "folder" else make_shards(5, 4)
    for out, threads in (("one", "1"), ("two", "3")):
        assert main([str(path), str(tmp_path / out), "--shard-samples", "4", "--size", "8", "--threads", threads]) == 0
    names = [f"train/{n:05d}.tar" for n in range(3)]
    assert sorted(p.relative_to(tmp_path / "one").as_posix() for p in (tmp_path / "one").rglob("*.tar")) == names
    assert filecmp.cmpfiles(tmp_path / "one", tmp_path / "two", names, shallow=False) == (names, [], [])
    with tarfile.open(tmp_path / "one" / names[0]) as tar:
        members = tar.getmembers()
    assert [(m.mtime, m.uid, m.gid, m.uname) for m in members] == [(0, 0, 0, "")] * 8
    assert [m.name.rpartition(".")[0] for m in members[::2]] == [m.name.rpartition(".")[0] for m in members[1::2]]


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [
        ([], "PNG", (20, 16)),
        (["--size", "8"], "WEBP", (10, 8)),
        (["--size", "8", "--crop"], "WEBP", (8, 8)),
        (["--crop", "--format", "png"], "PNG", (16, 16)),
        (["--format", "jpg", "--quality", "50"], "JPEG", (20, 16)),
    ],
)
def test_pictures_are_rewritten_as_asked(make_shards, tmp_path, options, kind, size):
    assert main([str(make_shards(1)), str(tmp_path / "out"), *options]) == 0
    (record,) = records(ShardReader(str(tmp_path / "out" / "train"))).values()
    with Image.open(io.BytesIO(record.image)) as image:
        assert (image.format, image.size) == (kind, size)


def test_bad_pictures_are_skipped_and_reported(make_shards, tmp_path, capsys):
    assert main([str(make_shards(6, bad=frozenset({1, 4}))), str(tmp_path / "out")]) == 0
    captured = capsys.readouterr()
    assert "2 of 6 samples cannot be used: 2 not a JPEG, PNG or WebP picture (first: s" in captured.err
    assert captured.out.startswith("4 samples.")


def test_same_key_in_two_shards_becomes_two_samples(make_tar, tmp_path, picture):
    for name, number in (("a", 0), ("b", 1)):
        make_tar(f"shards/{name}.tar", {"x.png": picture(number), "x.txt": name.encode()})
    assert main([str(tmp_path / "shards"), str(tmp_path / "out")]) == 0
    assert {r.captions[0] for r in records(ShardReader(str(tmp_path / "out" / "train"))).values()} == {"a", "b"}


def test_errors_are_one_line_and_exit_1(make_folder, tmp_path, capsys):
    full = make_folder(2)
    for arguments, message in [
        ([str(full), str(full)], "is not empty"),
        ([str(tmp_path / "none.tar"), str(tmp_path / "out")], "There is no shard"),
        ([str(make_folder(2, "bare", captions=False)), str(tmp_path / "out")], "no caption for any"),
    ]:
        assert main(arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert message in lines[0]


@pytest.mark.parametrize("option", [["--val-fraction", "1"], ["--size", "0"], ["--sise", "8"]])
def test_impossible_options_are_refused(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["in", "out", *option])
    assert option[0] in capsys.readouterr().err


def test_interrupted_writing_leaves_no_tar_that_looks_complete(tmp_path, make_shards):
    shards = make_shards(3, 8)
    damaged = shards / "01.tar"
    damaged.write_bytes(damaged.read_bytes()[:6000])
    assert main([str(shards), str(tmp_path / "out"), "--shard-samples", "100"]) == 1
    assert not list((tmp_path / "out").rglob("*.tar"))


@pytest.mark.slow  # imports torch and Lightning in a process of its own
def test_command_line(make_folder, tmp_path):
    command = [sys.executable, "-m", "fluxflow.data.prepare", str(make_folder(3)), str(tmp_path / "out")]
    result = subprocess.run(command, capture_output=True, text=True, check=True)
    assert result.stdout.startswith("3 samples.")
    assert "3/3 samples" in result.stderr
