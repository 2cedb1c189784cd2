"""Convolutions in the frequency domain against direct summation in float64."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow.kernels import fast, fourier
from fluxflow.kernels.conv import Conv2dDilation2, ConvTranspose2dStride2

TOLERANCE = 2e-6  # of the largest value
LAYERS = [
    (ConvTranspose2dStride2(3, 10, 16, 7), nn.ConvTranspose2d(3, 10, 16, 2, 7)),
    (ConvTranspose2dStride2(3, 10, 6, 2), nn.ConvTranspose2d(3, 10, 6, 2, 2)),
    (Conv2dDilation2(3, 10, 5), nn.Conv2d(3, 10, 5, padding=4, dilation=2)),
    (Conv2dDilation2(3, 10, 3), nn.Conv2d(3, 10, 3, padding=2, dilation=2)),
]


def assert_same(found: Tensor, exact: Tensor) -> None:
    assert found.shape == exact.shape
    assert found.is_contiguous()
    assert float((found - exact).abs().max()) <= TOLERANCE * float(exact.abs().max())


@settings(max_examples=40, deadline=None)
@given(
    taps=st.integers(1, 9),
    size=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    channels=st.tuples(st.integers(1, 5), st.integers(1, 3)),
    batch=st.integers(1, 3),
    shuffle=st.integers(1, 2),
    chunk=st.sampled_from([1, 4000, fourier.CHUNK]),
)
def test_direct_summation(taps, size, channels, batch, shuffle, chunk):
    x = torch.randn(batch, channels[0], size[0] + taps - 1, size[1] + taps - 1)
    weight = torch.randn(channels[1] * shuffle**2, channels[0], taps, taps)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(fourier, "CHUNK", chunk)
        found = fourier.correlate(x, weight, shuffle)
    assert_same(found, F.pixel_shuffle(F.conv2d(x.double(), weight.double()), shuffle))


def test_many_channels_of_one_sign():
    """Where sums are large beside their terms, and rounding errors add up."""
    x, weight = torch.rand(1, 128, 24, 24), torch.rand(8, 128, 9, 9)
    assert_same(fourier.correlate(x, weight), F.conv2d(x.double(), weight.double()))


def test_the_number_of_products():
    """N real numbers a side and phase: four are real, the others are pairs that take three products."""
    for taps in range(1, 10):
        numbers = fourier.patch_side(taps) ** 2
        assert len(fourier.transforms(taps).tile) == 4 + 3 * (numbers - 4) // 2


@pytest.mark.parametrize(("ours", "torchs"), LAYERS)
@pytest.mark.parametrize("size", [(6, 10), (16, 16), (18, 4)])
@pytest.mark.parametrize("bias", [True, False])
def test_layers_are_torchs(ours, torchs, size, bias, monkeypatch):
    monkeypatch.setattr(fourier, "pays", lambda *arguments: True)
    x, (ours, torchs) = torch.randn(2, 3, *size), deepcopy((ours, torchs))
    if not bias:
        ours.bias = torchs.bias = None
    torchs.double().load_state_dict(ours.state_dict())
    with torch.no_grad():
        assert_same(ours(x), torchs(x.double()))


@pytest.mark.parametrize("layer", [ours for ours, _ in LAYERS])
def test_only_where_it_may(layer, monkeypatch):
    calls, correlate = [], fourier.correlate
    monkeypatch.setattr(fourier, "pays", lambda *arguments: True)
    monkeypatch.setattr(
        fourier, "correlate", lambda *arguments, **named: calls.append(1) or correlate(*arguments, **named)
    )
    x = torch.randn(1, 3, 8, 8)
    layer(x)  # the weights have gradients
    with torch.no_grad():
        with torch.autocast("cpu", torch.bfloat16):
            layer(x)
        with fast(False):
            layer(x)
        layer.double()(x.double())
        layer.float()
        assert not calls
        layer(x)
    assert calls


def test_large_maps_and_many_channels_pay():
    def decoder(channels: int, side: int) -> tuple[bool, bool]:
        size = (side, side)
        transposed = fourier.pays(1, (channels, 20 * channels), size, 9, 64)
        return transposed, fourier.pays(4, (channels, 5 * channels), size, 5, 25)

    assert decoder(128, 128) == (True, True)
    assert decoder(128, 8) == decoder(8, 128) == (False, False)
