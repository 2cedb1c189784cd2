import re

from fluxflow.data.progress import Progress


def test_plain_lines_tell_amount_rate_and_time_left(capsys):
    with Progress("writing", "samples", 40, every=0.0) as progress:
        progress.start -= 10.0
        progress.advance(10, earlier=True)
        progress.advance(20)
    first, second, last = capsys.readouterr().err.splitlines()
    assert first == "writing: 10/40 samples, 0/s"  # what an earlier run did says nothing of the rate
    assert re.fullmatch(r"writing: 30/40 samples, 2/s, 5 s left", second)
    assert last == second


def test_a_terminal_gets_a_bar(capsys, monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with Progress("writing", "samples", 40) as progress:
        progress.advance(10, earlier=True)
        progress.advance(30)
    assert "40/40" in capsys.readouterr().err
