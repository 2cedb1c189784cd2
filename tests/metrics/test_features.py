"""Feature networks: against their own packages, and from files made on the spot."""

from pathlib import Path

import pytest
import torch
from torch import nn

from fluxflow.errors import ConfigError
from fluxflow.metrics.features import Clip, EfficientNetLite0, make_features, resized, to_bytes
from tests import pipelines


@pytest.fixture(scope="module")
def efficientnet() -> EfficientNetLite0:
    pytest.importorskip("efficientnet_lite_pytorch")
    return EfficientNetLite0()


def images(count: int = 2, side: int = 64, seed: int = 0) -> torch.Tensor:
    noise = torch.rand(count, 3, side // 8, side // 8, generator=torch.Generator().manual_seed(seed)) * 2 - 1
    return nn.functional.interpolate(noise, (side, side), mode="bilinear")


def test_features_are_those_of_the_package(efficientnet):
    image = resized(images(), 224)
    pooled = efficientnet.network._avg_pooling(efficientnet.network.extract_features(image)).flatten(1)
    torch.testing.assert_close(efficientnet(images()), pooled)


def test_bytes_and_floats_have_the_same_features(efficientnet):
    found = to_bytes(images())
    torch.testing.assert_close(efficientnet(found), efficientnet(found / 127.5 - 1))


def test_one_image_at_a_time_gives_the_same(efficientnet):
    together, alone = efficientnet(images(3)), torch.cat([efficientnet(one[None]) for one in images(3)])
    torch.testing.assert_close(together, alone, atol=1e-4, rtol=1e-3)


def test_the_perceptual_distance_grows_with_noise(efficientnet):
    image, noise = images(), torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    values = [efficientnet.distance(image, image + strength * noise).mean() for strength in (0.0, 0.05, 0.2, 0.8)]
    assert values[0] == 0
    assert values[1] < values[2] < values[3]


class Means(nn.Module):
    """Stands for the Inception file: a TorchScript of the same signature."""

    def forward(self, image: torch.Tensor, return_features: bool = False) -> torch.Tensor:
        assert return_features
        return image.float().mean(dim=(2, 3))


def test_inception_is_given_bytes(tmp_path: Path):
    torch.jit.script(Means()).save(tmp_path / "inception.pt")  # pyright: ignore[reportAttributeAccessIssue]
    features = make_features(f"inception:{tmp_path / 'inception.pt'}")
    torch.testing.assert_close(features(torch.ones(1, 3, 8, 8)), torch.full((1, 3), 255.0))
    assert features.label == "Inception"


@pytest.mark.parametrize("kind", ["dinov2", "clip"])
def test_models_of_transformers_are_read_from_their_folder(kind: str, tmp_path: Path):
    from transformers import (
        BitImageProcessor,
        CLIPConfig,
        CLIPModel,
        CLIPTextConfig,
        CLIPVisionConfig,
        Dinov2Config,
        Dinov2Model,
    )

    torch.manual_seed(0)
    small = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    if kind == "dinov2":
        model = Dinov2Model(Dinov2Config(**small, image_size=28, patch_size=14, mlp_ratio=1)).eval()
    else:
        parts = {"text_config": CLIPTextConfig(**small).to_dict()}
        parts["vision_config"] = CLIPVisionConfig(**small, image_size=28, patch_size=14).to_dict()
        model = CLIPModel(CLIPConfig(**parts, projection_dim=8)).eval()
    model.save_pretrained(tmp_path)
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path)
    pipelines.text_encoder().tokenizer.save_pretrained(tmp_path)
    features = make_features(f"{kind}:{tmp_path}")
    found = features(images())
    assert found.shape == (2, 16 if kind == "dinov2" else 8)
    processor = BitImageProcessor.from_pretrained(tmp_path)
    mean, std = (torch.tensor(values)[:, None, None] for values in (processor.image_mean, processor.image_std))
    pixels = (resized(images(), 28) / 2 + 0.5 - mean) / std
    with torch.no_grad():
        if kind == "dinov2":
            expected = model(pixels).last_hidden_state[:, 0]
        else:
            expected = model.visual_projection(model.vision_model(pixels).pooler_output)
    torch.testing.assert_close(found, expected)
    if isinstance(features, Clip):
        scores = features.scores(found, captions := ["a red dress", "a green shirt " * 50])
        for vector, caption, score in zip(found, captions, scores, strict=True):
            tokens = features.tokenizer(caption)["input_ids"][: model.config.text_config.max_position_embeddings]
            with torch.no_grad():
                text = model.text_projection(model.text_model(torch.tensor([tokens])).pooler_output)[0]
            cosine = (vector @ text / vector.norm() / text.norm()).clamp(min=0)
            torch.testing.assert_close(score, 100 * cosine, rtol=1e-4, atol=1e-3)


@pytest.mark.parametrize("name", ["resnet", "inception:", "inception:nowhere.pt", "dinov2:nowhere"])
def test_what_is_not_there_is_refused_by_name(name: str):
    with pytest.raises(ConfigError, match=f"features={name}"):
        make_features(name)


def test_what_is_no_model_is_refused_by_name(tmp_path: Path):
    (tmp_path / "file.pt").write_bytes(b"nonsense")
    with pytest.raises(ConfigError, match="TorchScript"):
        make_features(f"inception:{tmp_path / 'file.pt'}")
    with pytest.raises(ConfigError, match="features=clip"):
        make_features(f"clip:{tmp_path}")
