import pytest
import torch
from torch import nn

from fluxflow.models.discriminators import PatchDiscriminator
from tests import golden


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_gives_the_published_logits(version):
    discriminator = PatchDiscriminator(**golden.arguments("discriminator", version))
    golden.load(discriminator, "discriminator", version)
    data = golden.vectors(version)
    with torch.no_grad():
        golden.assert_near(discriminator(data["in.image"]), data["out.logits"])
        golden.assert_near(discriminator(data["in.image"], data["in.context"]), data["out.logits_with_context"])


def test_every_layer_is_spectrally_normalised():
    discriminator = PatchDiscriminator(base_ch=8, depth=2, ctx_dim=4)
    for _ in range(40):  # each forward in training mode is one power iteration
        discriminator(torch.randn(1, 3, 8, 8), torch.randn(1, 4))
    layers = [module for module in discriminator.modules() if isinstance(module, (nn.Conv2d, nn.Linear))]
    assert len(layers) == 2 + 2 * 4 + 1 + 2
    for layer in layers:
        norm = torch.linalg.matrix_norm(layer.weight.flatten(1), ord=2)
        torch.testing.assert_close(norm, torch.tensor(1.0), atol=0.05, rtol=0)


def test_context_adds_one_number_an_image():
    """The projection of Miyato & Koyama is an inner product of pooled features: the same for every patch."""
    discriminator = PatchDiscriminator(base_ch=8, depth=2, ctx_dim=4).eval()
    image, context = torch.randn(3, 3, 16, 16), torch.randn(3, 4)
    added = discriminator(image, context) - discriminator(image)
    torch.testing.assert_close(added, added[:, :, :1, :1].expand_as(added), atol=1e-5, rtol=0)
    expected = (discriminator.backbone(image).mean(dim=(2, 3)) * discriminator.ctx_proj(context)).sum(dim=1)
    torch.testing.assert_close(added[:, 0, 0, 0], expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 4])
def test_one_logit_a_patch(depth):
    assert PatchDiscriminator(base_ch=4, depth=depth)(torch.zeros(2, 3, 32, 48)).shape == (
        2, 1, 32 // 2**depth, 48 // 2**depth,
    )  # fmt: skip


def test_config_rebuilds_the_network():
    discriminator = PatchDiscriminator(base_ch=4, depth=2, ctx_dim=3).eval()
    twin = PatchDiscriminator(**discriminator.config).eval()
    twin.load_state_dict(discriminator.state_dict())
    image = torch.randn(1, 3, 16, 16)
    assert torch.equal(twin(image), discriminator(image))
