from pathlib import Path

import pytest

from fluxflow.checkpoint import read_index
from fluxflow.checkpoint.__main__ import main
from tests import golden, published


def test_import_export_inspect(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = published.write_folder(tmp_path / "theirs")
    words = published.write_tokenizer(tmp_path / "words")
    assert main(["import", str(folder), str(tmp_path / "ours"), "--text-model", words]) == 0
    assert read_index(tmp_path / "ours").components[-2:] == ["tokenizer", "scheduler"]
    assert main(["inspect", str(tmp_path / "ours")]) == 0
    assert "FluxFlowProcessor(d_model=16, vae_dim=8, embedding_size=32" in capsys.readouterr().out
    assert main(["export", str(tmp_path / "ours"), str(tmp_path / "back"), "--format", "published"]) == 0
    assert "for FluxFlowPipeline.from_pretrained of fluxflow 0.8.1" in capsys.readouterr().out
    (tmp_path / "back" / "training_state.json").write_text('{"global_step": 7}')
    assert main(["inspect", str(tmp_path / "back"), "--tensors"]) == 0
    shown = capsys.readouterr().out
    assert "version 0.6.0" in shown
    assert ", as recorded" in shown
    assert "training_state.json: global_step = 7" in shown
    assert "expander.upscale.layers.0.spade.mlp_beta.bias  [8]  F32" in shown
    count = sum(tensor.numel() for tensor in golden.parameters("expander", "0.6.0").values())
    assert f"{count:,} values" in shown


def test_inspect_notices_weights_that_are_not_the_recorded_ones(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    published.write(tmp_path / "model.safetensors", published.state("0.7.0"))
    metadata = '{"model_version": "0.7.0", "checksum": {"weights_hash": "abc"}, "training_info": {"dataset": "COCO"}}'
    (tmp_path / "model_metadata.json").write_text(metadata)
    assert main(["inspect", str(tmp_path)]) == 0
    shown = capsys.readouterr().out
    assert ", but abc is recorded" in shown
    assert "training: dataset = COCO" in shown


def test_mistakes_are_one_line_and_leave_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    good = published.write(tmp_path / "good.safetensors", published.state("0.6.0"))
    flow = published.write(tmp_path / "flow.safetensors", published.state("0.6.0", components=["flow_processor"]))
    broken = tmp_path / "broken.safetensors"
    broken.write_bytes(good.read_bytes()[:5000])
    full = tmp_path / "full"
    full.mkdir()
    (full / "file").touch()
    out = tmp_path / "out"
    for arguments, message in [
        (["import", broken, out], "truncated or no safetensors file"),
        (["import", good, full], "is not empty"),
        (["import", flow, out, "--version", "0.6.0"], "has no compressor and no expander"),
        (["import", flow, out], "give --version"),
        (["import", tmp_path / "nowhere", out], "There is no"),
        (["export", tmp_path / "nowhere", out, "--format", "published"], "There is no"),
        (["inspect", full], "holds no model"),
    ]:
        assert main([str(argument) for argument in arguments]) == 1
        said = capsys.readouterr()
        assert said.err.startswith("error: ")
        assert message in said.err
        assert said.err.count("\n") == 1
        assert said.out == ""
        assert not out.exists()
    assert [path.name for path in full.iterdir()] == ["file"]
