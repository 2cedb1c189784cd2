import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fluxflow import claims
from fluxflow.claims import LOCK, claim, claim_new, is_held, release

HOLD = (
    "import sys, time\nfrom pathlib import Path\nfrom fluxflow.claims import claim\n"
    "print(claim(Path(sys.argv[1])), flush=True)\ntime.sleep(60)\n"
)


def holder(folder: Path) -> subprocess.Popen:
    """Another process that holds a folder."""
    command, root = [sys.executable, "-c", HOLD, str(folder)], Path(__file__).parents[1]
    process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert process.stdout is not None
    assert process.stdout.readline() == "True\n"
    return process


def _is_refused(folder: Path) -> bool:
    """Whether another process can not hold a folder."""
    code = "import sys\nfrom pathlib import Path\nfrom fluxflow.claims import claim\nprint(claim(Path(sys.argv[1])))"
    command = [sys.executable, "-c", code, str(folder)]
    return subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[1]).stdout == "False\n"


def test_one_process_holds_a_folder_until_it_is_killed(tmp_path: Path) -> None:
    folder = tmp_path / "run"
    process = holder(folder)
    try:
        assert is_held(folder)
        assert not claim(folder)
        process.send_signal(signal.SIGKILL)
        process.wait()
        assert (folder / LOCK).exists(), "what is left of it means nothing"
        assert not is_held(folder)
        assert claim(folder)
        assert claim(folder), "the same process may ask again"
        assert not is_held(folder), "another process is meant"
        assert _is_refused(folder), "to ask gave nothing up"
    finally:
        process.kill()
        release()
    assert not folder.exists(), "nothing was written"


def test_a_new_folder_is_nobody_elses(tmp_path: Path) -> None:
    name = tmp_path / "2030-01-01_00-00-00"
    assert claim_new(name) == claim_new(name) == name
    (name / "config.yaml").touch()
    release(name)
    assert [path.name for path in name.iterdir()] == ["config.yaml"]
    assert claim_new(name).name == "2030-01-01_00-00-00-2"
    release()
    assert claim_new(name).name == "2030-01-01_00-00-00-2", "it was empty, and is gone"
    release()


def test_ranks_share_the_folder_of_the_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    process = holder(tmp_path / "run")
    try:
        monkeypatch.setenv("LOCAL_RANK", "1")
        assert not claims.is_first_rank()
        assert claim(tmp_path / "run")
        assert claim_new(tmp_path / "run") == tmp_path / "run"
    finally:
        process.kill()
        process.wait()
