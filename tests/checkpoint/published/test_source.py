import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from fluxflow.errors import CheckpointError
from fluxflow.published.source import open_source
from tests import published


def test_nothing_is_loaded_before_it_is_asked_for(tmp_path: Path) -> None:
    """The header alone tells names and shapes: the tensors themselves may be nonsense."""
    path = published.write(tmp_path / "model.safetensors", published.state("0.6.0"))
    content = bytearray(path.read_bytes())
    start = 8 + int.from_bytes(content[:8], "little")
    content[start:] = b"\xff" * (len(content) - start)
    path.write_bytes(content)
    source = open_source(path)
    assert source.components["flow_processor"]["text_proj.weight"].shape == (16, 32)
    assert source.tensors("flow_processor")["text_proj.weight"].isnan().all()


def test_truncated_and_foreign_files_are_refused(tmp_path: Path) -> None:
    path = published.write(tmp_path / "model.safetensors", published.state("0.6.0"))
    path.write_bytes(path.read_bytes()[:-10])
    with pytest.raises(CheckpointError, match=r"model\.safetensors is truncated or no safetensors file"):
        open_source(path)
    path.write_text("weights")
    with pytest.raises(CheckpointError, match="truncated or no safetensors file"):
        open_source(path)
    published.write(path, {"unet.conv_in.weight": torch.zeros(1)})
    with pytest.raises(CheckpointError, match=r"unet\.conv_in\.weight is of no published FluxFlow component"):
        open_source(path)
    with pytest.raises(CheckpointError, match="There is no"):
        open_source(tmp_path / "nowhere")
    (tmp_path / "empty").mkdir()
    with pytest.raises(CheckpointError, match="holds neither flxflow_final"):
        open_source(tmp_path / "empty")


def test_tensors_that_are_there_twice_are_refused(tmp_path: Path) -> None:
    folder = published.write_folder(tmp_path)
    published.write(folder / "flxflow_final.safetensors", published.state("0.6.0") | published.text_state())
    with pytest.raises(CheckpointError, match=r"is there twice, in flxflow_final\.safetensors and in text_encoder"):
        open_source(folder)
    again = {key: tensor.clone() for key, tensor in published.state("0.6.0", prefix="").items()}
    both = published.state("0.6.0") | again
    with pytest.raises(CheckpointError, match="is there twice"):
        open_source(published.write(tmp_path / "both.safetensors", both))


def test_pickles_are_refused_with_a_command_that_converts_them(tmp_path: Path) -> None:
    tensors = published.state("0.6.0", components=["flow_processor"])
    torch.save(tensors, tmp_path / "model.pt")
    for path in (tmp_path / "model.pt", tmp_path):
        with pytest.raises(CheckpointError, match="is a pickle, which runs what it holds, and is not opened") as caught:
            open_source(path)
    python, *arguments = shlex.split(str(caught.value).partition("convert it: ")[2])
    assert python == "python"
    subprocess.run([sys.executable, *arguments], check=True)
    converted = load_file(tmp_path / "model.safetensors")
    assert all(torch.equal(converted[key], tensor) for key, tensor in tensors.items())
