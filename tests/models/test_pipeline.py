from pathlib import Path

import pytest
import torch

from fluxflow.checkpoint import save_model
from fluxflow.errors import CheckpointError
from fluxflow.models import FluxPipeline
from tests import golden, pipelines, published


def test_published_weights_encode_flow_and_decode(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The three networks in turn; the recorded velocity is of another latent."""
    path = published.write(tmp_path / "model.safetensors", published.state("0.7.0"))
    pipeline, data = FluxPipeline.from_pretrained(path), golden.vectors("0.7.0")
    monkeypatch.setattr(torch, "randn_like", torch.zeros_like)
    time = torch.tensor([0.2, 0.9])
    with torch.no_grad():
        packed = pipeline.compressor(data["in.image"])
        moved = pipeline.flow_processor(packed, data["in.text"], time)
        assert torch.equal(pipeline(data["in.image"], data["in.text"], time), pipeline.expander(moved))
        assert torch.equal(pipeline(data["in.image"], use_flow=False), pipeline.expander(packed))
        golden.assert_near(pipeline.expander(data["out.packed"]), data["out.image"])
    with pytest.raises(ValueError, match="use_flow=False"):
        pipeline(data["in.image"])


def test_a_vae_alone_is_no_pipeline(tmp_path: Path) -> None:
    compressor, expander = pipelines.vae()
    save_model(tmp_path, compressor=compressor, expander=expander, latent_mean=[0.0] * 8, latent_std=[1.0] * 8)
    with pytest.raises(CheckpointError, match="has no flow_processor"):
        FluxPipeline.from_pretrained(tmp_path)
