"""A model folder whose writer is killed anywhere is the old model or the new one, and the next writer mends it."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from fluxflow import files
from fluxflow.checkpoint import is_exported, load_model, read_index, save_model
from fluxflow.commands.configuration import check_vae
from fluxflow.errors import StorageError
from fluxflow.revisions import publish, text_content
from tests import pipelines


def save(folder: Path, seed: int, longest: int = 64) -> None:
    """A whole model; `longest` is the most tokens of its tokenizer, `seed` changes its weights."""
    parts = pipelines.pipeline(seed).components
    parts["text_encoder"].tokenizer.model_max_length = longest
    save_model(folder, **parts, latent_mean=[0.5] * pipelines.D, latent_std=[1.0] * pipelines.D, step=seed)


def content(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def identity(folder: Path) -> tuple[int | None, float, int]:
    """What a reader meets: the step, a weight of the flow, the most tokens."""
    index, parts = load_model(folder)
    check_vae(str(folder), parts["compressor"].config | {"vae_dim": pipelines.D})
    return (
        index.step,
        next(parts["flow_processor"].parameters()).flatten()[0].item(),
        parts["tokenizer"].model_max_length,
    )


class Killed(BaseException):
    """What no writer can clean up after."""


@contextmanager
def killed_at(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[list[int]]:
    """The process ends before its rename of this number; gives the count of renames."""
    count = [0]
    rename = Path.replace

    def counted(self: Path, target: Path) -> Path:
        count[0] += 1
        if count[0] >= number:
            raise Killed
        return rename(self, target)

    with monkeypatch.context() as patch:
        patch.setattr(Path, "replace", counted)
        patch.setattr(Path, "unlink", lambda self, missing_ok=False: None)  # of a killed process nothing goes on
        yield count


def test_a_killed_writer_leaves_one_model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "old", 1)
    save(tmp_path / "new", 2, longest=32)
    old, new = identity(tmp_path / "old"), identity(tmp_path / "new")
    assert old != new
    met = []
    for number in range(1, 100):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        shutil.copytree(tmp_path / "old", tmp_path / "model")
        try:
            with killed_at(number, monkeypatch):
                save(tmp_path / "model", 2, longest=32)
        except Killed:
            met.append(identity(tmp_path / "model"))
            save(tmp_path / "model", 2, longest=32)
        else:
            break
        finally:
            assert content(tmp_path / "model") == content(tmp_path / "new")
    assert len(met) > 10
    assert met == [old] * met.count(old) + [new] * met.count(new)
    assert {old, new} == set(met)


def test_the_first_export_is_no_model_or_a_whole_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save(tmp_path / "new", 2)
    for number in (1, 5, 8, 9, 10, 12, 15):
        shutil.rmtree(tmp_path / "model", ignore_errors=True)
        with pytest.raises(Killed), killed_at(number, monkeypatch):
            save(tmp_path / "model", 2)
        if (tmp_path / "model" / "model_index.json").exists():
            assert identity(tmp_path / "model") == identity(tmp_path / "new")
            assert is_exported(tmp_path / "model", 2)
        save(tmp_path / "model", 2)
        assert content(tmp_path / "model") == content(tmp_path / "new")


@pytest.mark.parametrize("full", [1, 3, 7])
def test_a_full_disk_leaves_the_old_model_and_nothing_else(
    full: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    save(tmp_path, 1)
    before, calls = content(tmp_path), []

    def fsync(descriptor: int) -> None:
        calls.append(descriptor)
        if len(calls) >= full:
            raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(files.os, "fsync", fsync)
        with pytest.raises(StorageError, match=r"cannot be written: No space left on device\."):
            save(tmp_path, 2)
    assert content(tmp_path) == before


def test_equal_models_are_equal_bytes(tmp_path: Path) -> None:
    for name in ("a", "b", "c"):
        save(tmp_path / name, 3)
    assert content(tmp_path / "a") == content(tmp_path / "b") == content(tmp_path / "c")


def test_damage_is_noticed_and_mended(tmp_path: Path) -> None:
    save(tmp_path, 4)
    whole = content(tmp_path)
    assert is_exported(tmp_path, 4)
    assert not is_exported(tmp_path, 3)
    weights = tmp_path / "flow_processor" / "model.safetensors"
    flipped = bytearray(whole["flow_processor/model.safetensors"])
    flipped[-3] ^= 1
    for damaged in (bytes(flipped), bytes(flipped[:-100]), b""):
        weights.write_bytes(damaged)
        assert not is_exported(tmp_path, 4)
        save(tmp_path, 4)
        assert content(tmp_path) == whole
    for name in ("tokenizer/tokenizer.json", "scheduler/scheduler_config.json", "compressor/config.json"):
        (tmp_path / name).unlink()
        save(tmp_path, 4)
        assert content(tmp_path) == whole


def test_what_has_not_changed_is_not_written_again(tmp_path: Path) -> None:
    save(tmp_path, 5)
    before = {path: path.stat().st_ino for path in tmp_path.rglob("*.safetensors")}
    index, parts = load_model(tmp_path)
    with torch.no_grad():
        next(parts["flow_processor"].parameters()).add_(1)
    save_model(tmp_path, **parts, latent_mean=index.latent_mean, latent_std=index.latent_std, step=6)
    written = {str(path.relative_to(tmp_path)) for path, inode in before.items() if path.stat().st_ino != inode}
    assert written == {"flow_processor/model.safetensors"}
    assert read_index(tmp_path).step == 6


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    publish(tmp_path, {"a/b.json": text_content(b"{}")}, "index.json", {"x": 1})
    assert content(tmp_path).keys() == {"README.md", "a/b.json", "index.json"}
