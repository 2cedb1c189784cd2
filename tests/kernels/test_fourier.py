"""Convolutions in the frequency domain and their gradients against direct summation in float64."""

from copy import deepcopy

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow.kernels import fast, fourier, tiling
from fluxflow.kernels.conv import Conv2dSame, ConvTranspose2dStride2

TOLERANCE = 2e-6  # of the largest value
SIZES = st.integers(1, 20)

pytestmark = pytest.mark.skipif(fourier.library(5, 4) is None, reason="needs a C compiler")


def run(layer: nn.Module, x: Tensor) -> list[Tensor]:
    """Output and the gradients of input and parameters."""
    x = x.detach().requires_grad_()
    y = layer(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).bfloat16().to(y)  # what all dtypes have
    return [y.detach(), *torch.autograd.grad(y, [x, *layer.parameters()], upstream)]


def assert_same(found: list[Tensor], exact: list[Tensor]) -> None:
    for value, reference in zip(found, exact, strict=True):
        assert value.shape == reference.shape
        assert float((value - reference).abs().max()) <= TOLERANCE * float(reference.abs().max())


def assert_exact(layer: nn.Module, torchs: nn.Module, x: Tensor) -> None:
    """That the layer is computed in the frequency domain, and is torch's within the tolerance."""
    torchs.double().load_state_dict(layer.state_dict())
    assert type(layer(x).grad_fn).__name__ == "_CorrelationBackward"
    assert_same(run(layer, x), run(torchs, x.double()))


@pytest.fixture(scope="module", autouse=True, params=tiling.TILES)
def tile(request):
    """All layers take this tile, whether it pays or not."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "best_tile", lambda *arguments: request.param)
        yield request.param


@settings(max_examples=15, deadline=None)
@given(size=st.tuples(SIZES, SIZES), channels=st.tuples(st.integers(1, 5), st.integers(1, 20)), data=st.data())
def test_layers_and_their_gradients(size, channels, data):
    """Sizes that no tile divides, all kernels, few and many windows, in one chunk and in several."""
    x, bias = torch.randn(data.draw(st.integers(1, 3)), channels[0], *size), data.draw(st.booleans())
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiling, "CHUNK", data.draw(st.sampled_from([1, tiling.CHUNK])))
        patch.setattr(tiling, "PATCHES", data.draw(st.sampled_from([3, tiling.PATCHES])))
        if data.draw(st.booleans()):
            taps, dilation = data.draw(st.sampled_from([3, 5, 7])), data.draw(st.integers(1, 2))
            layer = Conv2dSame(*channels, taps, dilation)
            torchs = nn.Conv2d(*channels, taps, padding=dilation * (taps // 2), dilation=dilation)
        else:
            taps = data.draw(st.sampled_from([4, 6, 16]))  # odd and even paddings
            layer = ConvTranspose2dStride2(*channels, taps, taps // 2 - 1)
            torchs = nn.ConvTranspose2d(*channels, taps, stride=2, padding=taps // 2 - 1)
        if not bias:
            layer.bias = torchs.bias = None
        assert_exact(layer, torchs, x)


def test_a_spectrum_keeps_the_energy(tile):
    """Four frequencies are real, the others stand for their conjugates too: Parseval's theorem holds for them."""
    how = tiling.same((1, 1, 40, 40), 1, 5, 1)
    assert how is not None
    padded = torch.randn(1, 1, how.covered[0] + 4, how.covered[1] + 4)
    spectra = fourier._analyse("patches", padded, how.patches, how)[:, 0].double()
    assert len(spectra) == how.numbers
    energy = spectra[:4].square().sum(0) + 2 * spectra[4:].square().sum(0)
    side = tiling.patch_side(5, tile)
    patches = padded.double().unfold(2, side, tile).unfold(3, side, tile).flatten(4).square().sum(-1).flatten()
    torch.testing.assert_close(energy, side**2 * patches)


@pytest.mark.parametrize("size", [(16, 16), (16, 15), (15, 16)])
def test_an_activation_in_place_may_follow(size):
    """Whether tiles make up the output or have to be cropped to it."""
    layer, x = Conv2dSame(1, 1, 5), torch.randn(1, 1, *size)
    found = run(nn.Sequential(layer, nn.ReLU(inplace=True)), x)
    assert_same(found, run(nn.Sequential(deepcopy(layer).double(), nn.ReLU()), x.double()))


def test_many_channels_of_one_sign():
    """Where sums are large beside their terms, and rounding errors add up."""
    layer = Conv2dSame(128, 8, 7)
    nn.init.uniform_(layer.weight)
    assert_exact(layer, nn.Conv2d(128, 8, 7, padding=3), torch.rand(1, 128, 24, 24))


def test_tensors_that_are_not_contiguous():
    layer = Conv2dSame(4, 6, 5)
    layer.weight = nn.Parameter(layer.weight.detach().to(memory_format=torch.channels_last))
    assert_exact(layer, nn.Conv2d(4, 6, 5, padding=2), torch.randn(2, 4, 9, 9).to(memory_format=torch.channels_last))


@pytest.mark.parametrize("layer", [Conv2dSame(8, 6, 5, 2), ConvTranspose2dStride2(8, 6, 16, 7)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_under_autocast_only_the_results_are_rounded(layer, dtype):
    x = torch.randn(2, 8, 12, 9).bfloat16()
    with torch.autocast("cpu", torch.bfloat16):
        values = run(layer, x.to(dtype))
    assert [value.dtype for value in values] == [torch.bfloat16, dtype, torch.float32, torch.float32]
    for value, exact in zip(values, run(deepcopy(layer).double(), x.double()), strict=True):
        half_a_digit = 2**-8 if value.dtype == torch.bfloat16 else TOLERANCE
        assert float((value - exact).abs().max()) <= half_a_digit * float(exact.abs().max())


@pytest.mark.parametrize("layer", [Conv2dSame(2, 3, 3, 2), ConvTranspose2dStride2(2, 3, 4, 1)])
def test_second_derivatives(layer):
    """As the R1 penalty takes them: of the norm of a gradient."""

    def penalty(layer: nn.Module, x: Tensor) -> list[Tensor]:
        x = x.detach().requires_grad_()
        (gradient,) = torch.autograd.grad(layer(x).square().sum(), x, create_graph=True)
        return list(torch.autograd.grad(gradient.square().sum(), [x, *layer.parameters()]))

    x = torch.randn(1, 2, 6, 5)
    assert_same(penalty(layer, x), penalty(deepcopy(layer).double(), x.double()))


def test_only_the_gradients_that_are_wanted():
    layer, x = Conv2dSame(2, 3, 5), torch.randn(1, 2, 8, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    assert gradient.shape == x.shape


def test_not_a_number_is_not_hidden():
    layer, x = Conv2dSame(2, 3, 5), torch.zeros(1, 2, 40, 40)
    x[0, 1, 20, 20] = torch.nan
    assert layer(x)[0, :, 18:23, 18:23].isnan().all()


@pytest.mark.parametrize("layer", [Conv2dSame(3, 10, 5, 2), ConvTranspose2dStride2(3, 10, 6, 2)])
def test_only_where_it_may(layer):
    layer = deepcopy(layer)

    def taken(x: Tensor) -> bool:
        return type(layer(x).grad_fn).__name__ == "_CorrelationBackward"

    x = torch.randn(1, 3, 8, 8)
    assert taken(x)
    with torch.autocast("cpu", torch.float16):
        assert not taken(x)
    with fast(False):
        assert not taken(x)
    layer.double()
    assert not taken(x.double())
    layer.to("meta", torch.float32)
    assert layer(x.to("meta")).is_meta
    assert fourier.tiling_for(x, layer.weight, tiling.same, 10, 5, 1) is None  # a weight without memory


def test_threads_change_no_more_than_rounding():
    layer, x, before = ConvTranspose2dStride2(3, 5, 16, 7), torch.randn(2, 3, 20, 24), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(layer, x))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.allclose, result, results[0]))


def test_cached_kernel_spectra_follow_their_weight(monkeypatch):
    calls, analyse = [], fourier._analyse
    monkeypatch.setattr(fourier, "_analyse", lambda kind, *rest: calls.append(kind) or analyse(kind, *rest))
    layer, x = Conv2dSame(2, 3, 5), torch.randn(1, 2, 8, 8)
    with torch.no_grad(), fourier.cached_kernel_spectra():
        first = layer(x)
        assert torch.equal(layer(x), first)
        assert calls.count("kernels") == 1
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        assert torch.equal(layer(x), 2 * first)
        assert calls.count("kernels") == 2
    layer(x)
    layer(x)
    assert calls.count("kernels") == 4


def test_weights_without_a_version_are_not_kept():
    with torch.inference_mode(), fourier.cached_kernel_spectra():
        layer, x = Conv2dSame(2, 3, 5), torch.randn(1, 2, 8, 8)
        first = layer(x)
        layer.weight.mul_(2)
        layer.bias.mul_(2)
        assert torch.equal(layer(x), 2 * first)
