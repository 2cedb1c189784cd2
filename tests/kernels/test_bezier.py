import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow.kernels.bezier import bezier, bezier_reference, cubic_bezier
from tests.oracles import bezier_planes, de_casteljau

KINDS = [None, "sigmoid", "silu", "tanh", "relu"]
SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).abs().max() / expected.abs().max().clamp_min(1e-3))


def away_from_kinks(*shape: int) -> torch.Tensor:
    """Normal values pushed off zero, where relu has no derivative for finite differences to meet."""
    x = torch.randn(*shape, dtype=torch.float64)
    return (x + 0.1 * x.sign()).requires_grad_()


def test_curve_agrees_with_de_casteljau():
    t, *points = torch.randn(5, 40, dtype=torch.float64)
    torch.testing.assert_close(cubic_bezier(t, *points), de_casteljau(t, list(points)))


def test_curve_passes_through_its_ends():
    points = torch.randn(4, 7)
    assert torch.equal(cubic_bezier(torch.zeros(7), *points), points[0])
    assert torch.equal(cubic_bezier(torch.ones(7), *points), points[3])


@pytest.mark.parametrize("t_activation", KINDS)
@pytest.mark.parametrize("p_activation", KINDS)
@given(shape=SHAPES, channels=st.integers(1, 5), data=st.data())
def test_fused_equals_oracle_and_reference(t_activation, p_activation, shape, channels, data):
    dim = data.draw(st.integers(0, len(shape) - 1))
    shape[dim] = 5 * channels
    x = torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)), requires_grad=True)
    fused, reference = (f(x, dim, t_activation, p_activation) for f in (bezier, bezier_reference))
    assert relative_error(fused, bezier_planes(x, dim, t_activation, p_activation)) <= 2e-6
    assert relative_error(fused, reference) <= 2e-6
    upstream = torch.randn_like(fused)
    (gradient,) = torch.autograd.grad(fused, x, upstream)
    (expected,) = torch.autograd.grad(reference, x, upstream)
    assert relative_error(gradient, expected) <= 2e-6


@pytest.mark.parametrize("t_activation", KINDS)
@pytest.mark.parametrize("p_activation", KINDS)
def test_first_and_second_derivatives(t_activation, p_activation):
    x = away_from_kinks(2, 10, 3)
    assert torch.autograd.gradcheck(lambda x: bezier(x, 1, t_activation, p_activation), x)
    assert torch.autograd.gradgradcheck(lambda x: bezier(x, 1, t_activation, p_activation), x)


def test_keeps_its_input_only():
    kept = []
    x = torch.randn(2, 20, 8, 8, requires_grad=True)
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = bezier(x, 1, "sigmoid", "silu")
    assert [tensor.data_ptr() for tensor in kept] == [x.data_ptr()]
    y.sum().backward()


def test_non_contiguous_input():
    x = torch.randn(2, 6, 7, 20).permute(0, 3, 1, 2).requires_grad_()
    y = bezier(x, 1, "sigmoid", None)
    assert relative_error(y, bezier_planes(x, 1, "sigmoid", None)) <= 2e-6
    (gradient,) = torch.autograd.grad(y.square().sum(), x)
    (expected,) = torch.autograd.grad(bezier_reference(x.contiguous(), 1, "sigmoid", None).square().sum(), x)
    assert relative_error(gradient, expected) <= 2e-6


def test_bfloat16_stays_bfloat16():
    x = torch.randn(3, 20, dtype=torch.bfloat16, requires_grad=True)
    y = bezier(x, 1, "sigmoid", "tanh")
    assert y.dtype == torch.bfloat16
    assert relative_error(y, bezier_planes(x, 1, "sigmoid", "tanh")) <= 3e-2
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert gradient.dtype == torch.bfloat16
