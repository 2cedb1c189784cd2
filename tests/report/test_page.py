"""The page: one file that asks for nothing from elsewhere, whatever a run wrote."""

import json
import re
import shutil
from html.parser import HTMLParser
from pathlib import Path

import pytest
import yaml

from fluxflow.report.__main__ import main
from fluxflow.report.page import BUDGET, differing, distinct_names, render_comparison, render_run, write_report
from fluxflow.report.read import read_run
from tests.report import browser, folders

HOSTILE = "<script>alert(1)</script><img src=http://x onerror=alert(1)>{{ 7*7 }}"
PLOTLY = 4_900_000  # bytes


class Page(HTMLParser):
    """The tags of a page outside its scripts, their addresses, and its text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.addresses: list[str] = []
        self.text = ""
        self.scripts = 0
        self._script = False
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self._script = tag in ("script", "style")
        self.scripts += tag == "script"
        for name, value in attrs:
            assert not name.startswith("on")
            if name in ("src", "href", "srcset", "action", "data", "poster", "background") and value is not None:
                self.addresses.append(value)

    def handle_endtag(self, tag: str) -> None:
        self._script = False

    def handle_data(self, data: str) -> None:
        if not self._script:
            self.text += data


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    folder = folders.write(tmp_path / "vae" / "mine", folders.METRICS | {"val/psnr": [20.0] * 40})
    (folder / "evaluation.json").write_text(json.dumps(folders.EVALUATION))
    return folder


def test_the_page_has_what_the_run_has(folder: Path) -> None:
    path = write_report([folder])
    assert path == folder / "report.html"
    text = path.read_text()
    page = Page(text)
    for part in ("vae/mine", "finished", "Findings", "Previews", "Bézier activations", "Latent channels", "Samples",
                 "Evaluation", "python train.py stage=vae name=mine", "compressor 1.20 M", "a CPU, 2 threads",
                 "0:05:00", "torch 2.13.0", "no caption", "No font for ☃ was found", "20.41 to 20.97", "20.68 dB",
                 "shards/train", "Nothing of what was looked for went wrong", "beta_warmup: 100",
                 "best 20 at step 10"):  # fmt: skip
        assert part in page.text, part
    for name in (*folders.METRICS, "mu_activation", "Loss by time"):
        assert f"<b>{name}</b>" in text, name
    assert page.tags.count("img") == 4
    assert len(text) < PLOTLY + 2_000_000


def test_nothing_is_asked_for_from_elsewhere(folder: Path) -> None:
    second = folders.write(folder.with_name("second"))
    for path in (write_report([folder]), write_report([folder, second], folder / "both.html")):
        text = path.read_text()
        page = Page(text)
        assert page.addresses
        assert all(address.startswith(("data:", "#")) for address in page.addresses)
        styles = "".join(re.findall(r"<style>(.*?)</style>", text, re.DOTALL))
        assert "url(" not in styles
        assert "@import" not in styles
        assert "default-src 'none'" in text


def test_what_a_run_wrote_is_text(folder: Path) -> None:
    config = folders.CONFIG | {"name": HOSTILE, HOSTILE: HOSTILE, "model": {HOSTILE: HOSTILE}, "seed": HOSTILE}
    (folder / "config.yaml").write_text(yaml.safe_dump(config | {"data": {"train": HOSTILE}}))
    (folder / "metrics.csv").write_text(f'step,"val/{HOSTILE}"\r\n1,0.5\r\n')
    (folder / "run.log").write_text(f"2026-05-04 12:00:01,000 WARNING {HOSTILE}\n")
    (folder / "rejected.jsonl").write_text(json.dumps({"reason": HOSTILE, "key": HOSTILE, "source": HOSTILE}) + "\n")
    (folder / "history.jsonl").write_text(json.dumps(folders.START | {"command": HOSTILE, "device": HOSTILE}) + "\n")
    curves = {"step": 1, "curves": {HOSTILE: folders.record(1)["curves"]["expander.rgb_activation"]}}
    (folder / "curves.jsonl").write_text(json.dumps(curves) + "\n")
    evaluation = json.loads(json.dumps(folders.EVALUATION).replace("KID", HOSTILE).replace("error", HOSTILE))
    (folder / "evaluation.json").write_text(json.dumps(evaluation | {"command": HOSTILE}))
    honest = len(Page(render_run(read_run(folders.write(folder.with_name("honest"))))).tags)
    other = folders.write(folder.with_name(HOSTILE.replace("/", "_")))
    for text in (render_run(read_run(folder)), render_comparison([read_run(folder), read_run(other)])):
        page = Page(text)
        figures = page.tags.count("figure")
        assert "alert(1)" in page.text
        assert "49" not in page.text.partition("{{ 7*7 }}")[0][-200:]
        assert page.tags.count("img") == text.count("data:image/webp")
        assert page.scripts == 2 + figures - len(re.findall('class="picture"', text))
    assert honest


@pytest.mark.parametrize("evaluation", ["{}", '{"data": {}, "model": {}}', '{"measures": {}, "curves": 3, "data": 1}'])
def test_an_evaluation_that_lacks_parts_costs_no_page(folder: Path, evaluation: str) -> None:
    (folder / "evaluation.json").write_text(evaluation)
    start = folders.START | {"parameters": {"a": 3}, "devices": None}
    (folder / "history.jsonl").write_text(json.dumps(start) + "\n")
    (folder / "config.yaml").write_text("model: tiny\nstage: 3\ndata: [1]\n")
    assert "What was run" in render_run(read_run(folder))


def test_thinned_previews_are_said_to_be(tmp_path: Path) -> None:
    folder = folders.write(tmp_path / "mine", previews=60)
    text = render_run(read_run(folder))
    assert "40 of 60 image grids, so that the page stays small." in text
    assert len(text) < PLOTLY + BUDGET + 1_000_000 <= 15_000_000


@pytest.mark.parametrize("kept", ["config.yaml", "metrics.csv", "run.log", "history.jsonl"])
def test_a_page_is_made_of_any_part_of_a_run(tmp_path: Path, kept: str) -> None:
    whole = folders.write(tmp_path / "whole")
    (tmp_path / "part").mkdir()
    shutil.copy(whole / kept, tmp_path / "part" / kept)
    assert "What was run" in render_run(read_run(tmp_path / "part"))
    assert "part" in render_comparison([read_run(tmp_path / "part"), read_run(whole)])


def test_several_runs_are_compared_in_one_page(folder: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    other = folders.write(folder.with_name("other"))
    config = folders.CONFIG | {"run_dir": "outputs/vae/other", "seed": 4, "callbacks": {
        "ema": {"decay": 0.99}, "previews": {"folder": "outputs/vae/other/previews"}}}  # fmt: skip
    (other / "config.yaml").write_text(yaml.safe_dump(config))
    monkeypatch.chdir(folder.parents[1])
    assert main(["vae/mine", "vae/other"]) == 0
    assert capsys.readouterr().out.startswith("Written: outputs/report.html (")
    runs = [read_run("vae/mine"), read_run("vae/other")]
    assert differing(runs) == [("callbacks.ema.decay", ["0.999", "0.99"]), ("seed", ["3", "4"])]
    text = Path("outputs/report.html").read_text()
    data = [json.loads(one) for one in re.findall(r'<script type="application/json">(.*?)</script>', text)]
    assert len(data) == len(runs[0].metrics)
    assert [trace["name"] for trace in data[0]["data"]] == ["mine", "other"]
    assert "<td>20 (step 10)</td><td></td>" in text


def test_runs_of_one_name_are_told_apart() -> None:
    runs = [folders.run(folder=Path(path)) for path in ("a/vae/x", "b/vae/x", "b/vae/y")]
    assert distinct_names(runs) == ["a/vae/x", "b/vae/x", "b/vae/y"]
    assert distinct_names([runs[1], runs[2]]) == ["x", "y"]
    assert len(set(distinct_names([runs[1], runs[1]]))) == 2


def test_mistakes_are_one_sentence(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([str(folder), "nowhere"]) == 1
    assert capsys.readouterr().err.startswith("error: There is no nowhere. Give the folder of a run")
    assert main([str(folder), "--out", str(folder / "config.yaml" / "x.html")]) == 1
    assert "cannot be written" in capsys.readouterr().err
    with pytest.raises(SystemExit):
        main([])


@pytest.mark.skipif(browser.BROWSER is None, reason="chromium is not installed")
@pytest.mark.parametrize("width", [1280, 390])
@pytest.mark.parametrize("runs", [1, 2])
def test_a_browser_shows_the_page_without_errors_at_its_width(
    folder: Path, tmp_path: Path, width: int, runs: int
) -> None:
    config = folders.CONFIG | {"data": {"train": "a-long-name-without-a-space" * 9, "sources": None}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config))
    (folder / "run.log").write_text("2026-05-04 12:00:01,000 WARNING " + "x" * 300 + "\n")
    second = folders.write(folder.with_name("second"))
    page = write_report([folder, second][:runs], tmp_path / "page.html")
    seen = browser.visit(page, width, tmp_path / "seen", height=12_000)
    assert seen["errors"] == []
    assert seen["width"] == seen["scroll"] == width
    assert seen["wide"] == []
    assert seen["drawn"] == seen["plots"] > 8
    assert seen["images"] == (4 if runs == 1 else 2)
    assert (tmp_path / "seen" / "shot.png").stat().st_size > 10_000


@pytest.mark.skipif(browser.BROWSER is None, reason="chromium is not installed")
def test_the_probe_sees_errors_blocked_requests_and_what_is_too_wide(tmp_path: Path) -> None:
    page = tmp_path / "bad.html"
    policy = "<meta http-equiv='Content-Security-Policy' content=\"img-src 'none'\">"
    page.write_text(
        f"<!doctype html><head>{policy}<title>x</title></head><div style='width:600px;height:9px'></div>"
        "<img src='http://nowhere.invalid/x.png'><script>nothing()</script>"
    )
    seen = browser.visit(page, 390, tmp_path / "seen")
    assert any("nothing is not defined" in error for error in seen["errors"])
    assert any("nowhere.invalid" in error for error in seen["errors"])
    assert 600 <= seen["scroll"] <= 620
    assert len(seen["wide"]) == 1
