import io
import json
import subprocess
import sys

import pytest
from PIL import Image

from fluxflow.data.prepare.__main__ import main, parse_arguments
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import Split
from fluxflow.data.sources.shards import ShardReader


def test_folder_to_shards_keeps_keys_bytes_and_captions(make_folder, tmp_path, prepare, records, capsys):
    folder, out = make_folder(12), tmp_path / "out"
    assert prepare(folder, out, "--shard-samples", "5", "--val-fraction", "0.3") == 0
    assert f"To train on them: data=shards data.train={out / 'train'} data.val={out / 'val'}" in capsys.readouterr().out
    train, val = (records(ShardReader(str(out / split))) for split in ("train", "val"))
    assert train.keys().isdisjoint(val)
    assert train | val == records(FolderReader(str(folder)))
    assert set(val) == {key for key in train | val if key in Split(0.3, held_out=True)}


@pytest.mark.parametrize("lines", [[], ["--caption-lines"]])
def test_several_captions_arrive_in_their_order(make_folder, tmp_path, prepare, records, lines):
    folder = make_folder(2, captions=False)
    (folder / "p.1.txt").write_text("b\na\n")
    (folder / "even" / "p.0.txt").write_text("c")
    assert prepare(folder, tmp_path / "out", *lines) == 0
    found = {key: record.captions for key, record in records(ShardReader(str(tmp_path / "out" / "train"))).items()}
    assert found == {"p_1": ("b", "a") if lines else ("b\na",), "even/p_0": ("c",)}


def test_captions_of_a_named_table_and_column(make_folder, tmp_path, prepare, records, write_jsonl):
    write_jsonl(tmp_path / "t.jsonl", [{"file_name": "p.1.png", "text": "no", "de": ["eins", "zwei"]}])
    folder, table = make_folder(2, captions=False), str(tmp_path / "t.jsonl")
    assert prepare(folder, tmp_path / "out", "--captions", table, "--caption-key", "de") == 0
    (record,) = records(ShardReader(str(tmp_path / "out" / "train"))).values()
    assert (record.key, record.captions) == ("p_1", ("eins", "zwei"))


def test_shards_to_shards(make_shards, tmp_path, prepare, records, files):
    source = make_shards(5, 0, 8)
    assert prepare(source, tmp_path / "out", "--shard-samples", "4") == 0
    assert records(ShardReader(str(tmp_path / "out" / "train"))) == records(ShardReader(str(source)))
    assert len([name for name in files(tmp_path / "out") if name.endswith(".tar")]) == 4


def test_same_key_in_two_shards_becomes_two_samples(make_tar, tmp_path, picture, prepare, records):
    for name, number in (("a", 0), ("b", 1), ("c", 2)):
        make_tar(f"shards/{name}.tar", {"x.png": picture(number), "x.txt": name.encode()})
    assert prepare(tmp_path / "shards", tmp_path / "out") == 0
    found = records(ShardReader(str(tmp_path / "out" / "train")))
    assert {key: record.captions for key, record in found.items()} == {"x": ("a",), "x-2": ("b",), "x-3": ("c",)}


@pytest.mark.parametrize("source", ["folder", "shards"])
def test_same_input_gives_the_same_bytes_whatever_the_processes(make_folder, make_shards, tmp_path, files, source):
    path = make_folder(9) if source == "folder" else make_shards(5, 4)
    options = ["--shard-samples", "4", "--size", "8", "--drop-duplicates", "--val-fraction", "0.2"]
    for processes in ("1", "3"):
        assert main([str(path), str(tmp_path / processes), *options, "--processes", processes]) == 0
    assert files(tmp_path / "1") == files(tmp_path / "3")
    assert main([str(path), str(tmp_path / "seed"), *options, "--processes", "1", "--seed", "1"]) == 0
    assert files(tmp_path / "1")["train/00000.tar"] != files(tmp_path / "seed")["train/00000.tar"]


@pytest.mark.parametrize(
    ("options", "kind", "size"),
    [
        ([], "PNG", (20, 16)),
        (["--size", "16"], "PNG", (20, 16)),
        (["--size", "64", "--quality", "1"], "PNG", (20, 16)),
        (["--size", "8"], "JPEG", (10, 8)),
        (["--size", "8", "--crop"], "JPEG", (8, 8)),
        (["--size", "8", "--format", "webp"], "WEBP", (10, 8)),
        (["--crop", "--format", "png"], "PNG", (16, 16)),
        (["--format", "jpg", "--quality", "50"], "JPEG", (20, 16)),
    ],
)
def test_pictures_are_rewritten_as_asked(make_shards, tmp_path, prepare, records, options, kind, size):
    assert prepare(make_shards(1), tmp_path / "out", *options) == 0
    (record,) = records(ShardReader(str(tmp_path / "out" / "train"))).values()
    with Image.open(io.BytesIO(record.image)) as image:
        assert (image.format, image.size) == (kind, size)
    assert json.loads((tmp_path / "out/train/index.json").read_text())["sizes"] == {f"{size[0]}x{size[1]}": 1}


def test_errors_are_one_line_and_exit_1(make_folder, make_shards, tmp_path, prepare, capsys):
    full, bad, empty = make_folder(2), make_shards(2, bad=frozenset({0, 1}), folder="bad"), tmp_path / "empty"
    (bad / "00.tar").rename(tmp_path / "bad.tar")
    empty.mkdir()
    for arguments, message in [
        ((full, full / "shards"), "lie one inside the other"),
        ((full, full), "lie one inside the other"),
        ((full, tmp_path), "lie one inside the other"),
        ((tmp_path / "none.tar", tmp_path / "out"), "There is no shard"),
        ((empty, tmp_path / "out"), "holds no files"),
        ((make_folder(2, "bare", captions=False), tmp_path / "out"), "no caption for any"),
        ((full, make_folder(1, "theirs")), "is not empty, and nothing that prepare began"),
        ((full, tmp_path / "out", "--tokenizer", str(empty)), "holds no tokenizer.json"),
        ((make_shards(1), tmp_path / "out", "--caption-lines"), "are for folders of pictures"),
        ((full, tmp_path / "bad.tar" / "out"), "Not a directory"),
    ]:
        assert prepare(*arguments) == 1
        lines = capsys.readouterr().err.splitlines()
        assert len(lines) == 1
        assert lines[0].startswith("error: ")
        assert message in lines[0]
    assert not (tmp_path / "out").exists()


def test_a_shard_that_is_none_stops_the_run_before_anything_is_written(make_shards, tmp_path, prepare, files, capsys):
    shards = make_shards(3, 8)
    (shards / "01.tar").write_bytes(b"no tar" * 2000)
    assert prepare(shards, tmp_path / "out") == 1
    assert "01.tar" in capsys.readouterr().err.splitlines()[-1]
    assert not [name for name in files(tmp_path / "out") if name.endswith(".tar")]


def test_no_usable_sample_is_an_error(make_folder, tmp_path, prepare, capsys):
    folder = make_folder(2)
    for path in folder.rglob("*.png"):
        path.write_bytes(b"")
    assert prepare(folder, tmp_path / "out") == 1
    assert "None of the 2 samples is usable: even/p.0.png (" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    "option",
    [["--val-fraction", "1"], ["--size", "0"], ["--quality", "101"], ["--buckets", "250"], ["--sise", "8"],
     ["--drop-duplicates", "x"], ["--processes", "0"], ["--format", "gif"]],
)  # fmt: skip
def test_impossible_options_are_refused(option, capsys):
    with pytest.raises(SystemExit, match="2"):
        parse_arguments(["in", "out", *option])
    assert option[0] in capsys.readouterr().err


def test_help_and_a_run_load_no_torch(make_folder, tmp_path):
    code = ("import sys; from fluxflow.data.prepare.__main__ import main\n"
            "try: main(sys.argv[1:])\n"
            "finally: print('modules', *sorted({name.partition('.')[0] for name in sys.modules}))")  # fmt: skip

    def modules(*arguments: str) -> set[str]:
        command = [sys.executable, "-c", code, *arguments]
        return set(
            subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("modules ")[-1].split()
        )

    assert {"torch", "numpy", "PIL", "tokenizers"}.isdisjoint(modules("--help"))
    assert {"torch", "transformers"}.isdisjoint(modules(str(make_folder(2)), str(tmp_path / "out")))
