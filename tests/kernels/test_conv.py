import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn

from fluxflow.kernels.conv import Conv2dStride2, ConvTranspose2dStride2

LAYERS = [(Conv2dStride2, nn.Conv2d), (ConvTranspose2dStride2, nn.ConvTranspose2d)]
SIZES = st.integers(8, 13)


def run(layer: nn.Module, x: Tensor, upstream: Tensor | None = None) -> list[Tensor]:
    """Output and the gradients of input, weight and bias."""
    x = x.detach().requires_grad_()
    y = layer(x)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1)).to(y) if upstream is None else upstream
    return [y, *torch.autograd.grad(y, [x, *layer.parameters()], upstream)]


def assert_same(values: list[Tensor], expected: list[Tensor], tolerance: float) -> None:
    for value, reference in zip(values, expected, strict=True):
        assert value.shape == reference.shape
        assert value.dtype == reference.dtype
        assert float((value - reference).detach().abs().max()) <= tolerance * float(reference.detach().abs().max())


@pytest.mark.parametrize(("ours", "torchs"), LAYERS)
@given(height=SIZES, width=SIZES, kernel=st.sampled_from([2, 4, 6, 8]), data=st.data())
def test_output_and_gradients_are_those_of_torch(ours, torchs, height, width, kernel, data):
    padding = data.draw(st.integers(0, kernel // 2))
    layer = ours(3, 4, kernel, padding).double()
    reference = torchs(3, 4, kernel, stride=2, padding=padding).double()
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, height, width, dtype=torch.float64)
    assert_same(run(layer, x), run(reference, x), 1e-12)


@pytest.mark.parametrize(("layer", "shape"), [
    (Conv2dStride2(4, 10, 8, 3), (2, 4, 16, 24)),
    (ConvTranspose2dStride2(4, 10, 16, 7), (2, 4, 8, 12)),
])  # fmt: skip
def test_float32_at_the_kernels_of_the_networks(layer, shape):
    x = torch.randn(shape)
    values = run(layer, x)
    expected = run(layer.double(), x.double())
    layer.float()
    assert_same(values, [tensor.float() for tensor in expected], 2e-6)


@pytest.mark.parametrize("layer", [Conv2dStride2(2, 2, 4, 1), ConvTranspose2dStride2(2, 2, 4, 1)])
@pytest.mark.parametrize("size", [(4, 4), (5, 3)])
def test_first_and_second_derivatives(layer, size):
    layer = layer.double()
    x = torch.randn(1, 2, *size, dtype=torch.float64, requires_grad=True)

    def call(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
        return torch.func.functional_call(layer, {"weight": weight, "bias": bias}, (x,))

    inputs = (x, *(parameter.detach().requires_grad_() for parameter in layer.parameters()))
    assert torch.autograd.gradcheck(call, inputs)
    assert torch.autograd.gradgradcheck(call, inputs)


@pytest.mark.parametrize(("ours", "torchs"), LAYERS)
def test_autocast_as_torch_does(ours, torchs):
    layer = ours(3, 4, 4, 1)
    reference = torchs(3, 4, 4, stride=2, padding=1)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 8, 8)
    with torch.autocast("cpu", torch.bfloat16):
        values, expected = run(layer, x), run(reference, x)
    assert values[0].dtype == torch.bfloat16
    assert_same(values, expected, 2e-2)


@pytest.mark.parametrize("layer", [Conv2dStride2(3, 4, 4, 1), ConvTranspose2dStride2(3, 4, 4, 1)])
def test_frozen_weight_and_input_without_gradient(layer):
    x = torch.randn(2, 3, 8, 8)
    layer(x).sum().backward()
    assert layer.weight.grad is not None
    layer.weight.requires_grad_(False)
    (gradient,) = torch.autograd.grad(layer(x.requires_grad_()).sum(), x)
    assert gradient.shape == x.shape
