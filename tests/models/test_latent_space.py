import pytest
import torch

from fluxflow.errors import ConfigError
from fluxflow.models import FluxCompressor, FluxExpander, FluxFlowProcessor, FluxPipeline, LatentSpace


@pytest.fixture
def vae() -> tuple[FluxCompressor, FluxExpander]:
    return FluxCompressor(d_model=8, downscales=2, attn_layers=1, attn_heads=2), FluxExpander(d_model=8, upscales=2)


def test_statistics_standardise_the_tokens_and_leave_the_size_token(vae):
    image, eps = torch.randn(4, 3, 16, 24), torch.randn(4, 8, 4, 6)
    raw = LatentSpace(*vae).encode(image, eps)
    assert torch.equal(raw, vae[0](image, eps=eps))
    tokens = raw[:, :-1].flatten(0, 1).detach()
    packed = LatentSpace(*vae, tokens.mean(dim=0), tokens.std(dim=0)).encode(image, eps)
    normalised = packed[:, :-1].flatten(0, 1)
    torch.testing.assert_close(normalised.mean(dim=0), torch.zeros(8), atol=1e-5, rtol=0)
    torch.testing.assert_close(normalised.std(dim=0), torch.ones(8), atol=1e-4, rtol=0)
    assert torch.equal(packed[:, -1], raw[:, -1])


def test_decoding_undoes_the_statistics(vae):
    image, eps = torch.randn(2, 3, 16, 16), torch.randn(2, 8, 4, 4)
    plain = LatentSpace(*vae)
    scaled = LatentSpace(*vae, torch.randn(8), torch.rand(8) + 0.5)
    expected = vae[1](vae[0](image, eps=eps)).clamp(-1, 1)
    assert torch.equal(plain.decode(plain.encode(image, eps)), expected)
    torch.testing.assert_close(scaled.decode(scaled.encode(image, eps), (4, 4)), expected, atol=1e-5, rtol=1e-4)


def test_reconstruction_is_without_noise(vae):
    space = LatentSpace(*vae)
    image = torch.randn(2, 3, 16, 16)
    assert torch.equal(space.reconstruct(image), space.reconstruct(image))
    assert torch.equal(space.reconstruct(image), space.decode(space.encode(image, torch.zeros(2, 8, 4, 4))))


def test_latent_size_is_what_the_compressor_makes(vae):
    space = LatentSpace(*vae)
    assert space.latent_size(16, 24) == (4, 6)
    assert space.encode(torch.zeros(1, 3, 16, 24)).shape == (1, 4 * 6 + 1, 8)


@pytest.mark.parametrize(("size", "words"), [((18, 16), "height 18 .* 4"), ((16, 2), "width 2 .* 4"), ((0, 16), "0")])
def test_a_side_that_does_not_divide_is_refused(vae, size, words):
    with pytest.raises(ConfigError, match=words):
        LatentSpace(*vae).latent_size(*size)


def test_statistics_travel_with_the_weights(vae):
    state = LatentSpace(*vae, torch.randn(8), torch.rand(8)).state_dict()
    twin = LatentSpace(*vae)
    twin.load_state_dict(state)
    assert torch.equal(twin.mean, state["mean"])
    assert torch.equal(twin.std, state["std"])


def test_low_level_pipeline_is_compressor_flow_expander(vae):
    flow = FluxFlowProcessor(d_model=16, vae_dim=8, embedding_size=10, n_head=2, n_layers=1)
    image, text, time = torch.randn(2, 3, 16, 16), torch.randn(2, 10), torch.rand(2)
    torch.manual_seed(5)
    drawn = FluxPipeline(vae[0], flow, vae[1])(image, text, time)
    torch.manual_seed(5)
    assert torch.equal(drawn, vae[1](flow(vae[0](image), text, time)))
