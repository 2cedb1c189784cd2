import multiprocessing
import os
import signal
import threading
import time

import pytest

from fluxflow.data.prepare.work import Workers, put
from fluxflow.errors import DataError
from fluxflow.signals import Stopped, unwinding


def times(shared: int, piece: int) -> dict:
    return {"product": shared * piece, 3: os.getpid()}


def die(shared: int, piece: int) -> dict:
    os.kill(os.getpid(), signal.SIGKILL)
    return {}


def dawdle(shared: int, piece: int) -> dict:
    time.sleep(60)
    return {}


@pytest.mark.parametrize("processes", [1, 2])
def test_results_are_kept_and_used_again(tmp_path, processes):
    pieces = {f"{number}": number for number in range(5)}
    put(tmp_path / "3.json", {"product": "kept"})
    with Workers(7, processes) as workers:
        found = {name: (result, earlier) for name, result, earlier in workers.run(times, pieces, tmp_path)}
    assert found.pop("3") == ({"product": "kept"}, True)
    assert {name: result["product"] for name, (result, _) in found.items()} == {"0": 0, "1": 7, "2": 14, "4": 28}
    assert {result["3"] == os.getpid() for result, _ in found.values()} == {processes == 1}
    assert not any(earlier for _, earlier in found.values())
    with Workers(7, 1) as workers:
        again = {name: result for name, result, earlier in workers.run(times, pieces, tmp_path) if earlier}
    assert {name: again[name] for name in found} == {name: result for name, (result, _) in found.items()}


def test_a_killed_process_is_named(tmp_path):
    with Workers(7, 2) as workers, pytest.raises(DataError, match=r"worker process was killed.* fewer --processes"):
        list(workers.run(die, {"0": 0}, tmp_path))


@pytest.mark.parametrize("processes", [1, 2])
def test_a_signal_does_not_wait_for_the_pieces_under_way(tmp_path, processes):
    late = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGTERM))
    start = time.monotonic()
    late.start()
    with pytest.raises(Stopped) as stop, unwinding(), Workers(7, processes) as workers:
        list(workers.run(dawdle, {"0": 0, "1": 1, "2": 2}, tmp_path))
    assert stop.value.code == 128 + signal.SIGTERM
    assert time.monotonic() - start < 5
    assert multiprocessing.active_children() == []


def test_json_is_there_whole_or_not_at_all(tmp_path, monkeypatch):
    def full(number: int) -> None:
        raise OSError(28, "No space left on device")

    put(tmp_path / "a.json", {"old": 1})
    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(DataError, match=r"a\.json cannot be written: No space left"):
        put(tmp_path / "a.json", {"new": 1})
    assert (tmp_path / "a.json").read_text() == '{"old": 1}'
