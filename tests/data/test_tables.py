import json
import sys

import pytest

from fluxflow.data.sources.tables import candidates, read_table, usable
from fluxflow.errors import DataError

ROWS = [("a.png", ["one", "two"]), ("b/c.png", ["three"])]
EXPECTED = {"a.png": ("one", "two"), "b/c.png": ("three",)}


def write_jsonl_list(path):
    path.write_text("".join(json.dumps({"file_name": name, "captions": texts}) + "\n" for name, texts in ROWS))


def write_rows(path):
    mark = "\t" if path.suffix == ".tsv" else ","
    rows = [f"{name}{mark}{text}\n" for name, texts in ROWS for text in texts]
    path.write_text(f"file_name{mark}text\n" + "".join(rows))


def write_parquet(path):
    pyarrow = pytest.importorskip("pyarrow")
    parquet = pytest.importorskip("pyarrow.parquet")
    names, captions = zip(*ROWS, strict=True)
    parquet.write_table(pyarrow.table({"file_name": names, "captions": list(captions)}), path)


def write_coco(path):
    images = [{"id": 10 + number, "file_name": f"./{name}"} for number, (name, _) in enumerate(ROWS)]
    annotations = [{"id": 0, "image_id": 10 + number, "caption": text}
                   for number, (_, texts) in enumerate(ROWS) for text in texts]  # fmt: skip
    path.write_text(json.dumps({"info": {}, "images": images, "annotations": annotations}))


SOURCES = [("metadata.jsonl", write_jsonl_list), ("t.csv", write_rows), ("t.tsv", write_rows),
           ("t.parquet", write_parquet), ("captions_train.json", write_coco)]  # fmt: skip


@pytest.mark.parametrize(("name", "write"), SOURCES, ids=[name for name, _ in SOURCES])
def test_every_kind_of_table_gives_several_captions_a_picture(tmp_path, name, write):
    write(tmp_path / name)
    (table,) = candidates(tmp_path, [name, "a.png", "notes.md"], ["a.png"])
    assert table == tmp_path / name
    assert read_table(table, None) == EXPECTED


def test_caption_key_chooses_the_column(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"image": "a.png", "text": "no", "de": ["eins", "zwei"]}\n')
    assert read_table(tmp_path / "t.jsonl", "de") == {"a.png": ("eins", "zwei")}


def test_json_beside_pictures_or_of_another_kind_is_no_table(tmp_path):
    write_coco(tmp_path / "a.json")
    (tmp_path / "settings.json").write_text('{"images": 3}')
    (tmp_path / "broken.json").write_text("{")
    assert candidates(tmp_path, ["a.json", "settings.json", "broken.json"], ["a.png"]) == []


def test_rows_without_a_caption_spoil_their_picture_alone(tmp_path):
    (tmp_path / "t.jsonl").write_text('{"file": "a"}\n{"file": "b", "text": null}\n{"file": "c", "text": "x"}\n')
    assert read_table(tmp_path / "t.jsonl", None) == {"a": (None,), "b": (None,), "c": ("x",)}


def test_missing_pyarrow_names_the_extra(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    with pytest.raises(DataError, match=r'pip install "fluxflow\[parquet\]"'):
        read_table(tmp_path / "t.parquet", None)


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("t.csv", b"name,text\nx,y\n", "line 2: it needs file_name or file or image; it has name, text"),
        ("t.csv", b"file,label\nx,y\n", "line 2: it needs text or caption or captions; it has file, label"),
        ("t.jsonl", b'{"file_name": 7, "text": "y"}\n', "line 1: it needs file_name"),
        ("t.jsonl", b'{"file_name": "x", "text": "y"}\n{', "line 2 is no JSON"),
        ("t.jsonl", b"[]\n", "line 1 is no JSON object"),
        ("t.csv", b"file,text\nx,\x00" + b"y" * 200_000, "cannot be read"),
        ("t.json", b'{"images": [], "annotations": [{"image_id": 1}]}', "no JSON of COCO captions"),
        ("t.json", b"[]", "no JSON of COCO captions"),
        ("t.parquet", b"PAR1", "no parquet file"),
        ("t.txt", b"", "no caption table: it can be .jsonl, .csv"),
    ],
)
def test_broken_tables_are_named(tmp_path, name, content, message):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(DataError, match=message):
        read_table(tmp_path / name, None)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ((" a\n", "b"), (("a", "b"), "")),
        (("", "b", None), (("b",), "")),
        (("", "  "), ((), "empty caption")),
        ((None,), ((), "no caption")),
        ((), ((), "no caption")),
        (("a", 3), ((), "caption that is no string")),
        (("gr\udcfcn",), ((), "caption that is no UTF-8 text")),
    ],
)
def test_usable_captions(given, expected):
    assert usable(given) == expected
