import itertools
from collections.abc import Sequence

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from fluxflow.kernels import fast
from fluxflow.kernels.bezier import bezier, bezier_reference, cubic_bezier, trained_bezier
from tests.oracles import activate, bezier_planes, de_casteljau

KINDS = [None, "sigmoid", "silu", "tanh", "relu"]
SHAPES = st.lists(st.integers(1, 6), min_size=2, max_size=5)


def relative_error(value: torch.Tensor, expected: torch.Tensor) -> float:
    value, expected = value.detach().double(), expected.detach().double()
    return float((value - expected).abs().max() / expected.abs().max().clamp_min(1e-3))


def drawn(shape: Sequence[int]) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape)))


def assert_equals_float64(x: torch.Tensor, dim: int, *kinds: str | None, tolerance: float = 2e-6) -> None:
    """Output and gradient against the oracle, which autograd differentiates in float64."""
    x = x.detach().requires_grad_()
    exact = x.detach().double().requires_grad_()
    y, expected = bezier(x, dim, *kinds), bezier_planes(exact, dim, *kinds)
    upstream = torch.randn(y.shape, dtype=torch.float64).to(y.dtype)
    (gradient,) = torch.autograd.grad(y, x, upstream)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream.double())
    assert (y.shape, y.dtype, gradient.dtype) == (expected.shape, x.dtype, x.dtype)
    assert relative_error(y, expected) <= tolerance
    assert relative_error(gradient, expected_gradient) <= tolerance


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
    assert_equals_float64(drawn(shape), dim, t_activation, p_activation)


@pytest.mark.parametrize(
    ("shape", "dim"),
    [((2, 10, 17, 31), 1), ((3, 7, 5 * 67), 2), ((2, 5 * 301), 1), ((1, 20, 33, 65), 1), ((5, 3, 4), 0)],
)
@pytest.mark.parametrize("kinds", [("sigmoid", "silu"), ("tanh", "tanh"), ("silu", None)])
def test_planes_longer_and_shorter_than_a_tile(shape, dim, kinds):
    assert_equals_float64(drawn(shape), dim, *kinds)


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


def permuted(x: torch.Tensor) -> torch.Tensor:
    return x.permute(0, 2, 3, 1).contiguous().permute(0, 3, 1, 2)


def with_gaps(x: torch.Tensor) -> torch.Tensor:
    return x.repeat_interleave(2, 3)[..., ::2]


@pytest.mark.parametrize("layout", [permuted, with_gaps, lambda x: x[:1].expand(3, -1, -1, -1)])
def test_other_layouts(layout):
    assert_equals_float64(layout(drawn((2, 20, 6, 7))), 1, "sigmoid", "silu")


def test_channels_last_stays_so():
    x = torch.randn(2, 20, 6, 7).to(memory_format=torch.channels_last).requires_grad_()
    y = bezier(x, 1, "sigmoid", None)
    (gradient,) = torch.autograd.grad(y.sum(), x)
    assert y.is_contiguous(memory_format=torch.channels_last)
    assert gradient.is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize("kinds", [("sigmoid", "silu"), ("tanh", "relu"), ("silu", "sigmoid"), ("relu", None)])
def test_bfloat16_is_rounded_once(kinds):
    """Half a unit in the last of eight digits, since all between reading and writing is float32."""
    assert_equals_float64(drawn((3, 20, 9, 31)).bfloat16(), 1, *kinds, tolerance=2**-8)


NOT_NUMBERS = torch.tensor([0x7FC00000, 0x7FC00001, 0x7FFFFFFF, -0x400000, -1], dtype=torch.int32).view(torch.float32)


@pytest.mark.parametrize("kinds", [*zip(KINDS, KINDS, strict=True), ("sigmoid", None), ("sigmoid", "silu")])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_what_is_not_finite_stays_so(kinds, dtype):
    """Each plane in turn holds a NaN of either sign; training looks for it in output and gradient."""
    for plane, nan in itertools.product(range(5), NOT_NUMBERS):
        x = torch.randn(5, 40).to(dtype)
        x[plane, 7] = nan
        x.requires_grad_()
        y = bezier(x, 0, *kinds)
        assert y[0].isnan().nonzero().tolist() == [[7]]
        (gradient,) = torch.autograd.grad(y.nansum(), x)
        if kinds[0] != "relu":
            assert gradient[0, 7].isnan()
        assert gradient[:, :7].isfinite().all()
        assert gradient[:, 8:].isfinite().all()
    x = torch.full((5, 3), torch.inf).to(dtype)
    assert torch.equal(bezier(x, 0, *kinds).isfinite(), bezier_reference(x, 0, *kinds).isfinite())


@pytest.mark.parametrize("kinds", [("sigmoid", "silu"), ("tanh", "tanh"), ("sigmoid", "sigmoid")])
def test_far_from_zero(kinds):
    x = torch.linspace(-300, 300, 4001).repeat(5, 1)
    assert_equals_float64(x.clamp(-80, 80), 0, *kinds)
    assert bezier(x, 0, *kinds).isfinite().all()


def test_float32_second_derivative_is_that_of_the_reference():
    x = torch.randn(2, 20, 5, 5)
    values = []
    for function in (bezier, bezier_reference):
        inputs = x.clone().requires_grad_()
        (gradient,) = torch.autograd.grad(
            function(inputs, 1, "sigmoid", "silu").square().sum(), inputs, create_graph=True
        )
        values.append(torch.autograd.grad(gradient.square().sum(), inputs)[0])
    assert relative_error(*values) <= 2e-6


def test_under_autocast():
    x = torch.randn(2, 20, 5, 5, dtype=torch.bfloat16)
    expected = bezier(x, 1, "sigmoid", "silu")
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(bezier(x, 1, "sigmoid", "silu"), expected)
        assert bezier(x.float(), 1, "sigmoid", "silu").dtype == torch.float32


def test_the_switch_leads_to_the_reference():
    x = torch.randn(2, 20, 5, 5)
    with fast(False):
        assert torch.equal(bezier(x, 1, "sigmoid", "silu"), bezier_reference(x, 1, "sigmoid", "silu"))
    assert not torch.equal(bezier(x, 1, "sigmoid", "silu"), bezier_reference(x, 1, "sigmoid", "silu"))


@given(shape=SHAPES, data=st.data())
def test_trained_points(shape, data):
    """Output and all gradients against the oracle in float64, for points that any dimensions share."""
    points_shape = [data.draw(st.sampled_from([1, size])) for size in shape][data.draw(st.integers(0, 1)) :]
    inputs = [drawn(shape), *torch.randn(4, *points_shape, generator=torch.Generator().manual_seed(1))]
    results = []
    for function, dtype in ((trained_bezier, torch.float32), (trained_oracle, torch.float64)):
        leaves = [tensor.to(dtype).requires_grad_() for tensor in inputs]
        y = function(*leaves)
        results.append([y, *torch.autograd.grad(y, leaves, drawn(shape).to(dtype))])
    for value, expected in zip(*results, strict=True):
        assert value.shape == expected.shape
        assert relative_error(value, expected) <= 2e-6


def trained_oracle(x: torch.Tensor, *points: torch.Tensor) -> torch.Tensor:
    return de_casteljau(activate(x, "sigmoid"), list(points))


def test_trained_points_keep_input_and_points_only():
    kept = []
    x = torch.randn(2, 4, 8, 8, dtype=torch.bfloat16, requires_grad=True)
    points = [torch.randn(4, 1, 1, requires_grad=True) for _ in range(4)]
    with torch.autograd.graph.saved_tensors_hooks(lambda tensor: kept.append(tensor) or tensor, lambda tensor: tensor):
        y = trained_bezier(x, *points)
    assert [tensor.data_ptr() for tensor in kept] == [tensor.data_ptr() for tensor in (x, *points)]
    assert y.dtype == torch.float32
    assert torch.autograd.grad(y.sum(), x)[0].dtype == torch.bfloat16


def test_trained_points_have_second_derivatives():
    x = torch.randn(2, 3, 2, dtype=torch.float64, requires_grad=True)
    points = [torch.randn(3, 1, dtype=torch.float64, requires_grad=True) for _ in range(4)]
    assert torch.autograd.gradcheck(trained_bezier, (x, *points))
    assert torch.autograd.gradgradcheck(trained_bezier, (x, *points))
