import json
import shutil

import pytest

from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import Record
from fluxflow.errors import DataError


def opened(root, **options) -> FolderReader:
    reader = FolderReader(str(root), **options)
    reader.open()
    return reader


def everything(reader: FolderReader) -> list[Record]:
    shard = reader.open_shard(0)
    return [shard.load(index) for index in range(len(shard.keys))]


def captions(reader: FolderReader) -> dict[str, str]:
    return {record.key: "|".join(record.captions) for record in everything(reader)}


def test_text_files_beside_the_pictures(make_folder):
    assert captions(opened(make_folder(3))) == {
        "p_1": "caption 1", "even/p_0": "caption 0", "even/p_2": "caption 2",
    }  # fmt: skip


def test_metadata_jsonl_before_text_files(make_folder, write_jsonl):
    root = make_folder(3)
    write_jsonl(root / "metadata.jsonl", [{"file_name": "even/p.0.png", "text": "zero"},
                                          {"file_name": "./p.1.png", "caption": " one "}])  # fmt: skip
    assert captions(opened(root)) == {"p_1": "one", "even/p_0": "zero", "even/p_2": "caption 2"}


@pytest.mark.parametrize("column", ["file_name", "file", "image"])
@pytest.mark.parametrize(("name", "tab"), [("captions.csv", ","), ("captions.tsv", "\t")])
def test_tables(make_folder, column, name, tab):
    root = make_folder(2, captions=False)
    (root / name).write_text(
        f'{column}{tab}caption{tab}de\np.1.png{tab}"one, {tab}two"{tab}eins\neven/p.0.png{tab}x{tab}y\n'
    )
    assert captions(opened(root)) == {"p_1": f"one, {tab}two", "even/p_0": "x"}
    assert captions(opened(root, caption_key="de")) == {"p_1": "eins", "even/p_0": "y"}


def test_pictures_without_a_caption_carry_their_problem(make_folder):
    root = make_folder(3)
    (root / "p.1.txt").unlink()
    (root / "even" / "p.2.txt").write_bytes(b"\xff\xff")
    problems = {record.key: record.problem for record in everything(opened(root))}
    assert problems == {"p_1": "no caption", "even/p_0": "", "even/p_2": "caption that is no UTF-8 text"}


def test_pictures_of_one_stem_get_keys_of_their_own(make_folder, picture):
    root = make_folder(2)
    (root / "p.1.jpg").write_bytes(picture(5, kind="JPEG"))
    assert list(captions(opened(root))) == ["even/p_0", "p_1", "p_1-2"]


def test_missing_data_is_named(tmp_path, make_folder, make_shards, write_jsonl):
    with pytest.raises(DataError, match="There is no folder"):
        opened(tmp_path / "nowhere")
    with pytest.raises(DataError, match=r"No jpg.* picture in .*; it holds 2 \.tar files.*data=shards"):
        opened(make_shards(1, 1))
    bare = make_folder(4, "bare", captions=False)
    with pytest.raises(DataError, match=r"holds 4 pictures and no caption for any of them: write a \.txt"):
        opened(bare)
    write_jsonl(bare / "metadata.jsonl", [{"file_name": "elsewhere.png", "text": "x"}])
    with pytest.raises(DataError, match="no caption for any"):
        opened(bare)


def test_text_of_another_encoding_spoils_its_own_picture(make_folder):
    root = make_folder(2)
    (root / "a.csv").write_bytes("file,text\np.1.png,grün\neven/p.0.png,rot\n".encode("latin-1"))
    problems = {record.key: record.problem for record in everything(opened(root))}
    assert problems == {"p_1": "caption that is no UTF-8 text", "even/p_0": ""}


def test_a_text_file_is_one_caption_unless_lines_are_asked_for(make_folder):
    root = make_folder(1)
    (root / "even" / "p.0.txt").write_text("one\ntwo\n\n three\n")
    assert captions(opened(root)) == {"even/p_0": "one\ntwo\n\n three"}
    assert captions(opened(root, caption_lines=True)) == {"even/p_0": "one|two|three"}
    for lines in (False, True):
        (root / "even" / "p.0.txt").write_text(" \n")
        (record,) = everything(opened(root, caption_lines=lines))
        assert record.problem == "empty caption"


def test_a_named_table_may_lie_elsewhere(make_folder, tmp_path):
    coco = {"images": [{"id": 1, "file_name": "p.1.png"}],
            "annotations": [{"image_id": 1, "caption": "b"}, {"image_id": 1, "caption": "a"}]}  # fmt: skip
    (tmp_path / "captions.json").write_text(json.dumps(coco))
    root = make_folder(2)
    assert captions(opened(root, captions=str(tmp_path / "captions.json"))) == {"p_1": "b|a", "even/p_0": "caption 0"}


def test_one_shard_with_random_access(make_folder):
    reader = opened(make_folder(4))
    assert reader.shard_count() == 1
    shard = reader.open_shard(0)
    assert [shard.load(i) for i in (3, 0, 2, 1)] == [everything(reader)[i] for i in (3, 0, 2, 1)]
    assert list(shard.keys) == [record.key for record in everything(reader)]
    assert shard.load(0, first=5).image == shard.load(0).image[:5]


def test_a_vanished_picture_is_a_problem_of_its_own(make_folder):
    reader = opened(make_folder(2))
    (reader.root / "p.1.png").unlink()
    assert [record.problem for record in everything(reader)] == ["", "unreadable file (No such file or directory)"]


def test_file_names_that_are_no_utf8_give_keys_that_are(make_folder, picture):
    root = make_folder(1)
    (root / "gr\udcfcn.png").write_bytes(picture(3))
    (root / "gr\udcfcn.txt").write_text("green")
    assert captions(opened(root)) == {"even/p_0": "caption 0", "gr_n": "green"}


def test_fingerprint_follows_the_content_and_not_the_place(make_folder, tmp_path, write_jsonl):
    root = make_folder(3)
    seen = {opened(root).fingerprint()}
    shutil.copytree(root, tmp_path / "copy")
    assert opened(tmp_path / "copy").fingerprint() in seen
    changes = [lambda: (root / "p.1.txt").write_text("a longer caption"),
               lambda: (root / "p.1.png").rename(root / "q.png"),
               lambda: (root / "q.png").write_bytes(b"x"),
               lambda: write_jsonl(root / "metadata.jsonl", [{"file_name": "q.png", "text": "x"}]),
               lambda: write_jsonl(root / "metadata.jsonl", [{"file_name": "q.png", "text": "y"}])]  # fmt: skip
    for number, change in enumerate(changes, start=2):
        change()
        seen.add(opened(root).fingerprint())
        assert len(seen) == number


def test_hidden_files_are_no_pictures(make_folder, picture):
    root = make_folder(2)
    (root / "._p.png").write_bytes(b"")
    (root / ".thumbnails").mkdir()
    (root / ".thumbnails" / "p.png").write_bytes(picture(0))
    assert len(captions(opened(root))) == 2


def test_two_tables_are_refused(make_folder):
    root = make_folder(2)
    (root / "a.csv").write_text("file,text\np.1.png,x\n")
    (root / "b.tsv").write_text("file\ttext\np.1.png\ty\n")
    with pytest.raises(DataError, match=r"several caption tables \(a\.csv, b\.tsv\)"):
        opened(root)


def test_suffixes_match_in_any_case(make_folder, picture):
    root = make_folder(1)
    files = {"IMG.JPG": picture(3, kind="JPEG"), "IMG.TXT": b"loud", "b.PNG": picture(4), "b.Txt": b"mixed",
             "c.png": picture(5), "c.TXT": b"upper", "c.txt": b"lower"}  # fmt: skip
    for name, content in files.items():
        (root / name).write_bytes(content)
    assert captions(opened(root)) == {"IMG": "loud", "b": "mixed", "c": "lower", "even/p_0": "caption 0"}


def test_captions_are_optional_where_nobody_needs_them(make_folder):
    root = make_folder(3)
    (root / "even" / "p.0.txt").unlink()
    (root / "even" / "p.2.txt").write_bytes(b"\xff")
    found = {record.key: (record.captions, record.problem) for record in everything(opened(root, needs_captions=False))}
    assert found == {"p_1": (("caption 1",), ""), "even/p_0": ((), ""), "even/p_2": ((), "")}
    assert len(everything(opened(make_folder(2, "bare", captions=False), needs_captions=False))) == 2
    assert opened(root).fingerprint() == opened(root, needs_captions=False).fingerprint()
