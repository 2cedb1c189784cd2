import io
import json
import struct
import zlib
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fluxflow.data.images.decode import probe
from fluxflow.data.prepare import scan as scanning
from fluxflow.data.prepare.scan import Job, Options, chunks, scan
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.shards import ShardReader


def saved(kind: str, mode: str = "RGB", size: tuple[int, int] = (40, 30), **options) -> bytes:
    pixels = np.random.default_rng(3).integers(0, 256, (size[1], size[0], 3), dtype=np.uint8)
    data = io.BytesIO()
    Image.fromarray(pixels).convert(mode).save(data, kind, **options)
    return data.getvalue()


def turned() -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return saved("JPEG", exif=exif)


def deep_grey() -> bytes:
    data = io.BytesIO()
    Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 50).save(data, "PNG")
    return data.getvalue()


def bomb() -> bytes:
    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    return (b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", 9000, 9000, 8, 2, 0, 0, 0))
            + chunk(b"IDAT", b"") + chunk(b"IEND", b""))  # fmt: skip


def animated() -> bytes:
    frames, data = [Image.new("RGB", (40, 30), color) for color in ("red", "green")], io.BytesIO()
    frames[0].save(data, "WEBP", save_all=True, append_images=frames[1:])
    return data.getvalue()


GOOD = {"cmyk": saved("JPEG", "CMYK"), "palette": saved("PNG", "P"), "deep": deep_grey(), "turned": turned(),
        "animated": animated(), "grey": saved("JPEG", "L"), "alpha": saved("PNG", "RGBA"),
        "progressive": saved("JPEG", progressive=True), "late": saved("JPEG", icc_profile=b"x" * 100_000)}  # fmt: skip
BAD = {  # picture, text, reason
    "zero": (b"", b"x", "empty picture file"),
    "text": (b"hello, I am no picture", b"x", "not a JPEG, PNG or WebP picture"),
    "gif": (saved("GIF", "P"), b"x", "not a JPEG, PNG or WebP picture"),
    "bomb": (bomb(), b"x", "above 64 megapixels"),
    "cut_jpeg": (saved("JPEG", size=(200, 200))[:-3000], b"x", "damaged picture"),
    "cut_png": (saved("PNG")[:-900], b"x", "damaged picture"),
    "cut_webp": (saved("WEBP", size=(200, 200))[:-3000], b"x", "damaged picture"),
    "cut_header": (saved("JPEG")[:20], b"x", "damaged picture"),
    "tiny": (saved("PNG", size=(200, 8)), b"x", "shorter side below 16 pixels"),
    "alone": (saved("PNG"), None, "no caption"),
    "empty": (saved("PNG"), b" \n", "empty caption"),
    "latin": (saved("PNG"), "grün".encode("latin-1"), "caption that is no UTF-8 text"),
}


def write_faults(folder) -> None:
    folder.mkdir()
    for name, data in GOOD.items():
        (folder / f"{name}.jpg").write_bytes(data)
        (folder / f"{name}.txt").write_text(f"a {name} picture")
    for name, (data, text, _) in BAD.items():
        (folder / f"{name}.png").write_bytes(data)
        if text is not None:
            (folder / f"{name}.txt").write_bytes(text)


@pytest.mark.parametrize("options", [[], ["--drop-duplicates", "0"]])
def test_bad_samples_are_named_by_reason_and_the_others_kept(tmp_path, prepare, records, capsys, options):
    write_faults(tmp_path / "in")
    if options:  # the good ones show the same noise
        for number, name in enumerate(GOOD):
            (tmp_path / "in" / f"{name}.jpg").write_bytes(saved("PNG", size=(40 + 8 * number, 30)))
    assert prepare(tmp_path / "in", tmp_path / "out", "--min-size", "16", *options) == 0
    rejected = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    faults = {sample["key"]: sample for sample in rejected if sample["reason"] != "near duplicate"}
    assert {key: sample["reason"] for key, sample in faults.items()} == {key: bad[2] for key, bad in BAD.items()}
    assert all(sample["source"] == f"{key}.png" for key, sample in faults.items())
    found = records(ShardReader(str(tmp_path / "out" / "train")))
    assert not found.keys() & BAD.keys()
    if not options:
        assert {key: record.image for key, record in found.items()} == GOOD
        assert json.loads((tmp_path / "out" / "report.json").read_text())["rejected"] == Counter(
            b[2] for b in BAD.values()
        )
        assert "2 not a JPEG, PNG or WebP picture: gif.png, text.png" in capsys.readouterr().out
        sizes = json.loads((tmp_path / "out" / "train" / "index.json").read_text())["sizes"]
        assert sizes == {"30x40": 1, "40x30": len(GOOD) - 1}


def test_rows_that_name_no_picture_are_rejected(make_folder, write_jsonl, tmp_path, prepare):
    root = make_folder(2)
    write_jsonl(root / "metadata.jsonl", [{"file_name": "lost.png", "text": "x"}])
    assert prepare(root, tmp_path / "out") == 0
    assert json.loads((tmp_path / "out" / "rejected.jsonl").read_text()) == {
        "source": "lost.png", "key": "", "reason": "caption of a picture that is not there",
    }  # fmt: skip


def test_headers_are_enough_for_jpegs(tmp_path, monkeypatch):
    """The scan reads the beginnings alone, unless the size stands behind them."""
    write_faults(tmp_path / "in")
    reader = FolderReader(str(tmp_path / "in"))
    reader.open()
    seen = {}

    def note(data: bytes) -> tuple[int, int]:
        seen[data] = probe(data)
        return seen[data]

    monkeypatch.setattr(scanning, "probe", note)
    monkeypatch.setattr(scanning, "HEAD", 700)
    scan(Job(reader, Options(), tmp_path), (0, 0, None))
    assert seen.keys() >= {GOOD["turned"][:700], GOOD["late"], GOOD["alpha"]}
    assert (seen[GOOD["turned"][:700]], seen[GOOD["late"]]) == ((30, 40), (40, 30))


def test_chunks_cover_the_source_once(make_folder, make_shards, monkeypatch):
    monkeypatch.setattr(scanning, "CHUNK", 4)
    folder, shards = FolderReader(str(make_folder(10))), ShardReader(str(make_shards(2, 1, 3)))
    for reader, expected in ((folder, 3), (shards, 3)):
        reader.open()
        work = chunks(reader)
        keys = [key for name in sorted(work) for key in scan(Job(reader, Options(), folder.root), work[name])["keys"]]
        assert len(work) == expected
        assert keys == [key for number in range(reader.shard_count()) for key in reader.open_shard(number).keys]


@pytest.mark.parametrize("count", [1, 2])
def test_what_was_odd_about_tars_is_told(count, make_tar, picture, tmp_path, prepare, records, capsys):
    for number in range(count):
        members = {f"./{name}.png": picture(number) for name in "ab"} | {f"./{name}.txt": b"x" for name in "bac"}
        make_tar(f"in/{number}.tar", members | {"./v1.5.jpg": b"x", "./notes.md": b"", "./k.cls": b"1"})
    assert prepare(tmp_path / "in", tmp_path / "out") == 0
    assert len(records(ShardReader(str(tmp_path / "out" / "train")))) == 2 * count
    report, printed = json.loads((tmp_path / "out" / "report.json").read_text()), capsys.readouterr().out
    assert report["rejected"] == {"no picture": count, "picture with a dot in its name": count}
    assert (report["scattered"], report["passed_over"]) == (count, {".cls": count, ".md": count})
    assert f"{count} samples had files that do not follow one another" in printed
    assert f"passed over, being neither pictures nor captions: {count} .cls, {count} .md" in printed


def test_odd_files_of_a_folder_are_rejected_and_its_captions_told(make_folder, tmp_path, prepare, capsys):
    root = make_folder(2)
    (root / "gone\x1b.png").symlink_to("nowhere")
    (root / "train_log.csv").write_text("step,loss\n1,2\n")
    (root / "t.csv").write_text("image,caption\np.1.png,x\n")
    assert prepare(root, tmp_path / "out") == 0
    printed = capsys.readouterr().out
    assert "captions come from: t.csv (1), .txt (1)" in printed
    assert "1 unreadable file (No such file or directory): gone\\x1b.png" in printed
    assert "passed over, being neither pictures nor captions: 1 .csv" in printed
    assert prepare(root, tmp_path / "files", "--captions", "files") == 0
    assert "captions come from: .txt (2)" in capsys.readouterr().out
