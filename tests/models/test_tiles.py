"""A picture decoded in tiles is the picture decoded at once."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow.models import FluxCompressor, FluxExpander, LatentSpace
from fluxflow.models import latent_space as tiles
from fluxflow.models.packet import pack
from fluxflow.versions import VERSIONS, version_of

LEVEL = 1 / 255


def decoder(version: str, upscales: int = 2) -> FluxExpander:
    """A decoder whose weights are off their start by as much as they are large: every pixel matters to the others."""
    torch.manual_seed(0)
    expander = FluxExpander(8, upscales, version=version).double().eval()
    with torch.no_grad():
        for weight in expander.parameters():
            weight.add_(weight.std(correction=0) * torch.randn_like(weight))
    return expander


def packets(version: str, size: tuple[int, int], count: int = 1) -> Tensor:
    tokens = torch.randn(count, size[0] * size[1], 8 + version_of(version).context_channels, dtype=torch.float64)
    return pack(tokens, size, 1024)


@settings(max_examples=8, deadline=None)
@given(
    size=st.tuples(st.integers(1, 14), st.integers(2, 14)),
    side=st.integers(2, 40),
    version=st.sampled_from([name for name, kind in VERSIONS.items() if not kind.residual]),
)
def test_the_same_picture(size: tuple[int, int], side: int, version: str) -> None:
    expander, packed = decoder(version), packets(version, size, 2)
    with torch.no_grad():
        whole = expander(packed, latent_size=size)
    found = tiles.expand_in_tiles(expander, packed, size, side)
    torch.testing.assert_close(found, whole, rtol=1e-10, atol=1e-10 * whole.std().item())


def test_no_pixel_of_the_surroundings_is_superfluous(monkeypatch: pytest.MonkeyPatch) -> None:
    expander, size = decoder("0.3.0"), (12, 12)
    packed = packets("0.3.0", size)
    whole = expander(packed, latent_size=size).detach()
    monkeypatch.setattr(tiles, "HALO", tiles.HALO - 1)
    assert (tiles.expand_in_tiles(expander, packed, size, 16) - whole).abs().max() > 1e-8 * whole.std()


def test_no_seams_in_float32() -> None:
    expander, size = decoder("0.3.0", 3).float(), (16, 12)
    packed = packets("0.3.0", size).float()
    with torch.no_grad():
        whole = expander(packed, latent_size=size)
    found = tiles.expand_in_tiles(expander, packed, size, 32)
    assert (found - whole).abs().max() < LEVEL * whole.abs().max() / 2


def test_large_pictures_are_decoded_in_tiles_by_themselves(monkeypatch: pytest.MonkeyPatch) -> None:
    space = LatentSpace(FluxCompressor(d_model=8, downscales=2, attn_layers=1, attn_heads=2), FluxExpander(8, 2)).eval()
    packed, sides, expand = torch.randn(1, 13, 8), [], tiles.expand_in_tiles

    def spied(expander: nn.Module, given: Tensor, size: tuple[int, int], side: int) -> Tensor:
        sides.append(side)
        return expand(expander, given, size, side)  # pyright: ignore[reportArgumentType]

    monkeypatch.setattr("fluxflow.models.latent_space.expand_in_tiles", spied)
    monkeypatch.setattr("fluxflow.models.latent_space.SIDE", 8)
    space.decode(packed, (3, 4)).sum().backward()  # with gradients: at once
    with torch.no_grad():
        whole = space.decode(packed, (3, 4))
        monkeypatch.setattr("fluxflow.models.latent_space.LARGEST", 12 * 16 - 1)
        by_itself, asked = space.decode(packed, (3, 4)), space.decode(packed, (3, 4), 12)
        at_once = space.decode(packed, (3, 4), 16)
    assert sides == [8, 12]
    assert torch.equal(at_once, whole)
    torch.testing.assert_close(by_itself, whole, rtol=0, atol=1e-5)
    torch.testing.assert_close(asked, whole, rtol=0, atol=1e-5)
