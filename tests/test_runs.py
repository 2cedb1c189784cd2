import os
import shutil
from pathlib import Path

import pytest

from fluxflow.errors import CheckpointError
from fluxflow.runs import LAST, check_model, find_checkpoint, find_checkpoints, find_model, is_published, newest_run


def make_run(folder: Path, age: int = 0, model: bool = True, checkpoint: bool = True) -> Path:
    for wanted, name in ((model, "model/model_index.json"), (checkpoint, "checkpoints/last.ckpt")):
        if wanted:
            (folder / name).parent.mkdir(parents=True)
            (folder / name).write_text("{}")
            os.utime(folder / name, (1e9 - age, 1e9 - age))
    return folder


def test_a_model_is_found_in_a_run_and_in_itself(tmp_path: Path) -> None:
    run = make_run(tmp_path / "vae" / "a")
    assert find_model(run) == find_model(run / "model") == run / "model"


def test_a_missing_model_is_answered_with_the_newest_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)  # the runs of the working directory are candidates, too
    for age, name in enumerate(["d", "c", "b", "a"]):
        make_run(tmp_path / "vae" / name, age)
    with pytest.raises(CheckpointError) as caught:
        find_model(tmp_path / "vae" / "misspelt")
    runs = [str(tmp_path / "vae" / name) for name in ("d", "c", "b")]
    assert str(caught.value).endswith(f"The newest runs with a model: {', '.join(runs)}.")


def test_other_places_say_what_they_are(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "a", model=False)
    with pytest.raises(CheckpointError, match="has not written its model yet"):
        find_model(run)
    with pytest.raises(CheckpointError, match="is a file"):
        find_model(run / "checkpoints" / "last.ckpt")
    with pytest.raises(CheckpointError, match=r"No run or model folder is given\. No run with a model was found"):
        find_model(None)


def test_checkpoint_of_a_run_a_folder_or_a_file(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    last = run / "checkpoints" / "last.ckpt"
    for given in (run, run / "checkpoints", last, str(last)):
        assert find_checkpoint(given, tmp_path / "new") == last
    assert find_checkpoint(None, run) is None


def test_auto_goes_on_in_the_same_folder_or_starts(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    assert find_checkpoint("auto", run) == run / "checkpoints" / "last.ckpt"
    assert find_checkpoint("auto", tmp_path / "new") is None


def test_a_checkpoint_that_was_named_must_exist(tmp_path: Path) -> None:
    with pytest.raises(CheckpointError, match="there is no"):
        find_checkpoint(tmp_path / "nowhere", tmp_path)
    with pytest.raises(CheckpointError, match=r"holds no checkpoints/last\.ckpt"):
        find_checkpoint(make_run(tmp_path / "a", checkpoint=False), tmp_path)


def test_published_checkpoints_are_told_from_models_of_ours(tmp_path: Path) -> None:
    ours, theirs, pickled = (tmp_path / name for name in ("ours", "theirs", "pickled"))
    for file in (ours / "model_index.json", ours / "model.safetensors", theirs / "flxflow_final.safetensors"):
        file.parent.mkdir(exist_ok=True)
        file.touch()
    pickled.mkdir()
    (pickled / "model.pt").touch()
    for path in (theirs, theirs / "flxflow_final.safetensors", pickled, pickled / "model.pt"):
        assert is_published(path)
        check_model(path)
    for path in (ours, tmp_path, tmp_path / "nowhere", None):
        assert not is_published(path)
    with pytest.raises(CheckpointError, match="There is no"):
        check_model(tmp_path / "nowhere")


def test_a_part_of_a_run_or_model_names_the_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "vae" / "a")
    (run / "model" / "model_index.json").write_text('{"compressor": ["fluxflow.models", "FluxCompressor"]}')
    weights = run / "model" / "compressor" / "model.safetensors"
    weights.parent.mkdir()
    weights.touch()
    alone = tmp_path / "elsewhere"
    shutil.copytree(run / "model", alone)
    for path in (run / LAST, run / "checkpoints", weights, weights.parent, run / "model" / "model_index.json"):
        assert not is_published(path)
        with pytest.raises(CheckpointError, match=r"of a run: give the run's folder, vae/a\."):
            check_model(path)
    for path in (alone / "compressor", alone / "compressor" / "model.safetensors"):
        assert not is_published(path)
        with pytest.raises(CheckpointError, match=r"of a model: give the model's folder, elsewhere\."):
            check_model(path)
    exported = run / "published" / "model.safetensors"
    exported.parent.mkdir()
    exported.touch()
    assert is_published(exported)
    assert is_published(exported.parent), "what was exported into a run's folder is none of its parts"


def test_a_model_is_no_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    run = make_run(tmp_path / "a")
    weights = run / "model" / "compressor" / "model.safetensors"
    weights.parent.mkdir()
    weights.touch()
    for path in (run / "model", weights, weights.parent):
        with pytest.raises(CheckpointError, match=r"is a model, .* give the run's folder, a\."):
            find_checkpoints(path, tmp_path)
    with pytest.raises(CheckpointError, match=r"is a model, .* give the run's folder\."):
        find_checkpoints(make_run(tmp_path / "b", checkpoint=False) / "model", tmp_path)


def test_the_best_checkpoint_follows_the_last(tmp_path: Path) -> None:
    run = make_run(tmp_path / "a")
    best = run / "checkpoints" / "best.ckpt"
    best.touch()
    assert find_checkpoints(run, tmp_path) == [run / LAST, best]
    (run / LAST).unlink()
    assert find_checkpoints("auto", run) == [best]


def test_the_newest_run_is_the_one_that_saved_last(tmp_path: Path) -> None:
    runs = [make_run(tmp_path / name, age) for name, age in (("z", 30), ("mine", 10), ("2030-01-01_00-00-00", 20))]
    (tmp_path / "notes.txt").touch()
    assert newest_run(tmp_path.iterdir()) == runs[1]
    assert newest_run([make_run(tmp_path / "empty", checkpoint=False)]) is None
