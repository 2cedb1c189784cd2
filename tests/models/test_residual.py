"""The VAE of version 1.0: shapes, equal budgets, and what it refuses."""

import pytest
import torch
from torch import nn

from fluxflow.errors import ConfigError
from fluxflow.models import FluxCompressor, FluxExpander, LatentSpace
from fluxflow.models.activations import CHOICES
from fluxflow.models.residual import ResidualBlock, ResidualDecoder, ResidualEncoder, cosine_transform

SMALL = {"version": "1.0", "widths": [8, 8], "d_model": 4}


def space(**options) -> LatentSpace:
    torch.manual_seed(0)
    options = SMALL | options
    return LatentSpace(FluxCompressor(downscales=2, **options), FluxExpander(upscales=2, **options)).eval()


@pytest.mark.parametrize("activation", CHOICES)
def test_images_become_packets_and_images_again(activation: str) -> None:
    vae, image = space(activation=activation), torch.rand(2, 3, 16, 24) * 2 - 1
    packed = vae.encode(image)
    assert packed.shape == (2, 4 * 6 + 1, 4)
    assert vae.decode(packed).shape == image.shape
    torch.testing.assert_close(vae.decode(packed), vae.decode(packed, (4, 6), tile=64))


@pytest.mark.parametrize("activation", CHOICES)
def test_each_activation_has_the_same_budget(activation: str) -> None:
    def count(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert count(ResidualBlock(96, activation)) == pytest.approx(18 * 96**2, rel=0.02)
    found, usual = (
        FluxExpander(8, 2, version="1.0", widths=[96, 96], activation=name) for name in (activation, "silu")
    )
    assert count(found) == pytest.approx(count(usual), rel=0.02)


def test_a_block_starts_as_the_identity() -> None:
    x = torch.randn(2, 8, 5, 5)
    assert torch.equal(ResidualBlock(8, "bezier")(x), x)


def test_the_latent_is_the_posterior_alone() -> None:
    vae, image = space(), torch.rand(1, 3, 16, 16) * 2 - 1
    mu, logvar, features = vae.compressor.posterior(image)
    assert not features.any()
    tokens = vae.encode(image, eps=torch.zeros_like(mu))[:, :-1]
    torch.testing.assert_close(tokens, mu.flatten(2).transpose(1, 2))
    assert logvar.shape == mu.shape == (1, 4, 4, 4)


def test_its_options_are_refused_for_other_versions() -> None:
    for network in (FluxCompressor, FluxExpander):
        with pytest.raises(ConfigError, match=r"widths=\[16\] is for model\.version=1\.0"):
            network(d_model=8, widths=[16])


def test_options_of_the_other_versions_are_refused() -> None:
    for name, value in {"attn_layers": 1, "attn_heads": 2, "attn_ff_mult": 4}.items():
        with pytest.raises(ConfigError, match=rf"{name}={value} is for the published versions: version 1\.0 has no"):
            FluxCompressor(d_model=8, version="1.0", **{name: value})


def test_the_transform_is_orthonormal_and_its_first_row_the_mean() -> None:
    rows = cosine_transform(8)
    torch.testing.assert_close(rows @ rows.T, torch.eye(8))
    torch.testing.assert_close(rows[0], torch.full((8,), 8**-0.5))


def test_it_starts_as_the_projection_onto_the_lowest_frequencies() -> None:
    """The decoder undoes the encoder on what it keeps: twice is once, and with every frequency nothing is lost."""
    image = torch.rand(2, 3, 16, 16) * 2 - 1
    for latent, exact in ((8, False), (48, True), (50, True)):
        encoder = ResidualEncoder(3, latent, [8, 8], 2, "bezier")
        decoder = ResidualDecoder(latent, 3, [8, 8], 2, "bezier")
        once = decoder(encoder(image)[:, :latent])
        torch.testing.assert_close(decoder(encoder(once)[:, :latent]), once)
        assert torch.allclose(once, image, atol=1e-5) == exact
        torch.testing.assert_close(once.mean(dim=(1, 2, 3)), image.mean(dim=(1, 2, 3)))


@pytest.mark.parametrize(("widths", "square"), [([8, 16, 24], 1), ([8, 16], 2), ([8], 4)])
def test_the_finest_resolution_takes_squares_of_pixels(widths: list[int], square: int) -> None:
    encoder = ResidualEncoder(3, 4, widths, 2, "silu")
    assert encoder.network[1].in_channels == 3 * square**2
    assert encoder(torch.zeros(1, 3, 8, 12)).shape == (1, 8, 2, 3)


@pytest.mark.parametrize(("widths", "error"), [([8] * 4, "4 resolutions: one to 3"), ([12], "multiples of 8")])
def test_widths_that_do_not_fit_are_refused(widths: list[int], error: str) -> None:
    with pytest.raises(ConfigError, match=error):
        ResidualDecoder(4, 3, widths, 2, "silu")
