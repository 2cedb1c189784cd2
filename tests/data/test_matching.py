import unicodedata

import pytest

from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import ordered
from fluxflow.errors import DataError


def captions(root, **options) -> dict[str, str]:
    reader = FolderReader(str(root), **options)
    reader.open()
    return {record.key: record.problem or "|".join(record.captions) for record in ordered(reader)}


@pytest.fixture
def written(make_folder, write_jsonl, picture):
    """Pictures of many names, and a table that names them in other ways."""

    def write(*rows: tuple[str, str], table: str = "metadata.jsonl", texts: bool = False):
        root = make_folder(2, captions=texts)
        (root / (unicodedata.normalize("NFD", "café") + ".png")).write_bytes(picture(7))
        write_jsonl(root / table, [{"file_name": name, "text": text} for name, text in rows])
        return root

    return write


SPELLINGS = ["even/p.0.png", "./even/p.0.png", "even\\p.0.png", ".\\even\\p.0.png", "even//p.0.png",
             "x/../even/p.0.png", "even/p.0.PNG", "pictures/even/p.0.png", "pictures\\even\\p.0.png"]  # fmt: skip


@pytest.mark.parametrize("name", SPELLINGS)
def test_a_picture_is_found_by_every_spelling_of_its_path(written, name):
    assert captions(written((name, "zero")))["even/p_0"] == "zero"


@pytest.mark.parametrize("form", ["NFC", "NFD"])
def test_accents_may_be_composed_or_not(written, form):
    root = written((unicodedata.normalize(form, "café.png"), "coffee"))
    assert captions(root)[unicodedata.normalize("NFD", "café")] == "coffee"
    (root / (unicodedata.normalize("NFD", "café") + ".png")).rename(root / "caf\xe9.png")
    assert captions(root)["caf\xe9"] == "coffee"


def test_absolute_paths_and_those_from_the_current_folder(written, monkeypatch, tmp_path, write_jsonl):
    root = written()
    (tmp_path / "link").symlink_to(root)
    monkeypatch.chdir(tmp_path.parent)
    rows = [{"file_name": str(root / "even" / "p.0.png"), "text": "a"},
            {"file_name": f"{tmp_path.name}/pictures/even/p.0.png", "text": "b"},
            {"file_name": str(tmp_path / "link" / "even" / "p.0.png"), "text": "c"}]  # fmt: skip
    write_jsonl(root / "metadata.jsonl", rows)
    assert captions(tmp_path / "link")["even/p_0"] == "a|b|c"
    assert captions(root)["even/p_0"] == "a|b"  # nobody knows of the link


def test_two_files_of_one_spelling_are_not_guessed_at(written, picture):
    root = written(("p.1.Png", "which"), ("even/p.0.png", "zero"))
    (root / "p.1.PNG").write_bytes(picture(9))
    assert list(captions(root).values()).count("no caption") == 3


def test_the_first_row_that_names_no_picture_is_told_with_the_count(written, caplog):
    root = written(("lost\x1b.png", "x"), ("even/p.0.png", "zero"), ("/elsewhere/p.1.png", "y"))
    captions(root)
    said = (
        "2 of the 3 pictures that metadata.jsonl names are not in the folder (first: lost\\x1b.png; one that is there:"
    )
    assert said in caplog.text
    root = written(("lost.png", "x"), table="a.tsv.jsonl")
    with pytest.raises(DataError, match=r"no caption for any of them: 1 of the 1 pictures .* \(first: lost\.png"):
        captions(root, captions=str(root / "a.tsv.jsonl"))


UNRELATED = {
    "train_log.csv": "step,loss\n1,0.5\n",
    "scores.csv": "image,score\np.1.png,3\n",
    "others.csv": "file_name,text\nelsewhere.png,wrong\n",
    "binary.csv": "\0" * 99,
    "empty.tsv": "",
    "00000_stats.json": "{}",
    "half.parquet": "PAR1",
}


def test_tables_of_something_else_leave_the_text_files_alone(written, caplog):
    root = written(texts=True, table="unused")
    (root / "unused").unlink()
    for name, content in UNRELATED.items():
        (root / name).write_text(content)
    found = captions(root)
    assert (found["p_1"], found["even/p_0"]) == ("caption 1", "caption 0")
    assert "6 tables are passed over, since they give no caption to its pictures (first: " in caplog.text


def test_the_layout_of_img2dataset(make_folder, write_jsonl):
    pyarrow, parquet = pytest.importorskip("pyarrow"), pytest.importorskip("pyarrow.parquet")
    root = make_folder(4)
    for shard in ("00000", "00001"):
        parquet.write_table(
            pyarrow.table({"url": ["u"], "caption": ["wrong"], "key": ["k"]}), root / f"{shard}.parquet"
        )
        (root / f"{shard}_stats.json").write_text('{"count": 1}')
    assert set(captions(root).values()) == {f"caption {number}" for number in range(4)}


def test_why_a_table_is_none_is_told_where_nothing_else_has_captions(written):
    root = written(table="unused")
    (root / "unused").unlink()
    (root / "train_log.csv").write_text(UNRELATED["train_log.csv"])
    with pytest.raises(DataError, match=r"no caption for any of them: .*train_log\.csv, line 2: it needs file_name or"):
        captions(root)


def test_a_table_can_be_chosen_or_switched_off(written, caplog):
    root = written(("p.1.png", "one"), texts=True)
    assert captions(root)["p_1"] == "one"
    assert (
        "1 pictures have a .txt and rows in metadata.jsonl, which are taken; data.reader.captions=files" in caplog.text
    )
    assert captions(root, captions="files")["p_1"] == "caption 1"
    (root / "more.csv").write_text("file,text\np.1.png,two\n")
    with pytest.raises(DataError, match=r"several caption tables \(metadata\.jsonl, more\.csv\)"):
        captions(root)
    assert captions(root, captions=str(root / "more.csv"))["p_1"] == "two"


def test_a_broken_table_of_these_pictures_is_an_error(written):
    root = written(("p.1.png", "one"), texts=True)
    with (root / "metadata.jsonl").open("a") as file:
        file.write("{broken\n")
    with pytest.raises(DataError, match="line 2 is no JSON"):
        captions(root)
