import json
import logging
import multiprocessing
from pathlib import Path

import pytest

from fluxflow.data.streaming.rejections import Rejected, RejectedFile, SampleCounts
from fluxflow.errors import DataError


def bad(key: str, reason: str = "damaged", source: str = "00.tar") -> Rejected:
    return Rejected(source, key, reason)


def rows(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


def test_first_sample_of_each_reason_is_named_once(caplog):
    counts = SampleCounts()
    with caplog.at_level(logging.WARNING):
        counts.add(9, [bad("a"), bad("b"), bad("c", "no caption")])
        counts.add(9, [bad("d")])
    assert [record.message.split(":")[0] for record in caplog.records] == [
        "sample a of 00.tar is skipped",
        "sample c of 00.tar is skipped",
    ]
    assert counts.report() == ("4 of 18 samples that were read cannot be used: 3 damaged (first: a of 00.tar), "
                               "1 no caption (first: c of 00.tar)")  # fmt: skip
    assert SampleCounts().report() == ""


def test_more_than_the_limit_ends_the_run_and_less_does_not():
    counts = SampleCounts(limit=0.02)
    counts.add(398, [bad(str(n)) for n in range(7)])
    counts.add(2, [bad("7")])
    with pytest.raises(DataError, match=r"9 of 401 samples .* data\.max_bad_fraction=0\.02"):
        counts.add(1, [bad("8")])


def test_few_samples_are_given_patience():
    counts = SampleCounts()
    counts.add(199, [bad(str(n)) for n in range(150)])
    with pytest.raises(DataError, match="150 of 200"):
        counts.add(1, [])


def test_counts_go_on_from_a_checkpoint():
    before, after = SampleCounts(), SampleCounts()
    before.add(190, [bad("a")])
    after.restore(before.state())
    with pytest.raises(DataError, match="3 of 200"):
        after.add(10, [bad("b"), bad("c")])


def test_each_sample_is_written_once_over_epochs_and_runs(tmp_path):
    path = tmp_path / "run" / "rejected.jsonl"
    for _ in range(2):  # runs
        counts = SampleCounts(1.0, RejectedFile(path))
        for _ in range(3):  # epochs
            counts.add(10, [bad("a"), bad("grün", "no caption"), bad("a", source="01.tar")])
        assert counts.reasons == {"damaged": 2, "no caption": 1}
    assert rows(path) == [
        {"source": "00.tar", "key": "a", "reason": "damaged"},
        {"source": "00.tar", "key": "grün", "reason": "no caption"},
        {"source": "01.tar", "key": "a", "reason": "damaged"},
    ]


def test_half_a_line_of_a_killed_run_is_dropped(tmp_path):
    path = tmp_path / "rejected.jsonl"
    RejectedFile(path).add([bad("a")])
    path.write_bytes(path.read_bytes() + b'{"source": "00.t')
    RejectedFile(path).add([bad("a"), bad("b")])
    assert [row["key"] for row in rows(path)] == ["a", "b"]


def _write(path: Path, first: int) -> None:
    file = RejectedFile(path)
    for number in range(first, first + 100):
        file.add([bad(str(number)), bad("shared")])


def test_ranks_write_whole_lines_side_by_side(tmp_path):
    path, context = tmp_path / "rejected.jsonl", multiprocessing.get_context("fork")
    ranks = [context.Process(target=_write, args=(path, 50 * rank)) for rank in range(3)]
    for rank in ranks:
        rank.start()
    for rank in ranks:
        rank.join(60)
    assert sorted(row["key"] for row in rows(path)) == sorted([*map(str, range(200)), "shared"])


def test_names_of_strangers_do_not_reach_a_terminal_as_they_are(caplog, tmp_path):
    counts = SampleCounts(1.0, RejectedFile(tmp_path / "rejected.jsonl"))
    with caplog.at_level(logging.WARNING):
        counts.add(1, [bad("a\x1b[2J", source="b\udcff\u202e.tar")])
    assert "\x1b" not in caplog.text + counts.report()
    assert "sample a\\x1b[2J of b\\udcff\\u202e.tar is skipped" in caplog.text
    assert rows(tmp_path / "rejected.jsonl") == [
        {"source": "b\udcff\u202e.tar", "key": "a\x1b[2J", "reason": "damaged"}
    ]
