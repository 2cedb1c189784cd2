import pytest
import torch
from torch import Tensor

from fluxflow.kernels.bezier import cubic_bezier
from fluxflow.models.activations import (
    IDENTITY_MIDDLE,
    IDENTITY_POINTS,
    BezierActivation,
    PillarBezier,
    TrainableBezier,
)
from fluxflow.models.flow import LAYOUTS
from tests.oracles import activate, bezier_planes, de_casteljau

KINDS = [None, "sigmoid", "silu", "tanh", "relu"]


@pytest.mark.parametrize("t_activation", KINDS)
@pytest.mark.parametrize("p_activation", KINDS)
@pytest.mark.parametrize("shape", [(3, 20), (2, 6, 20), (2, 20, 4, 6), (2, 20, 2, 4, 6)])
def test_bezier_activation_is_de_casteljau_of_five_planes(t_activation, p_activation, shape):
    dim = 2 if len(shape) == 3 else 1
    x = torch.randn(shape)
    y = BezierActivation(t_activation, p_activation)(x)
    expected = bezier_planes(x, dim, t_activation, p_activation)
    assert y.shape == tuple(size // 5 if i == dim else size for i, size in enumerate(shape))
    assert float((y - expected).abs().max()) <= 2e-6 * float(expected.abs().max())


def test_planes_are_contiguous_blocks_of_channels():
    """Where t is 0 the curve is at p0, where t is 1 at p3: the second and the last fifth of the channels."""
    x = torch.randn(2, 15)
    curve = BezierActivation(None, None)
    x[:, :3] = 0
    assert torch.equal(curve(x), x[:, 3:6])
    x[:, :3] = 1
    assert torch.equal(curve(x), x[:, 12:])


@pytest.mark.parametrize("shape", [(3, 12), (2, 10, 4), (10,)])
def test_bezier_activation_refuses_what_is_not_five_planes(shape):
    with pytest.raises(ValueError, match="five planes"):
        BezierActivation()(torch.zeros(shape))


def test_bezier_activation_refuses_unknown_names():
    with pytest.raises(ValueError, match="gelu"):
        BezierActivation("gelu")
    with pytest.raises(ValueError, match="gelu"):
        BezierActivation("sigmoid", "gelu")


def trainable_oracle(x: Tensor, curve: TrainableBezier, trailing: int) -> Tensor:
    """The curve of sigmoid(x) in float64; `trailing` dimensions of the input follow those of the control points."""
    points = [p.detach().double()[(...,) + (None,) * trailing] for p in (curve.p0, curve.p1, curve.p2, curve.p3)]
    return de_casteljau(activate(x.double(), "sigmoid"), points)


@pytest.mark.parametrize(
    ("shape", "input_shape", "channel_only"),
    [((6,), (3, 6), False), ((6, 1, 1), (2, 6, 4, 5), False), ((6,), (2, 6, 4, 5), True), ((7, 6), (2, 7, 6), False)],
)
def test_trainable_bezier_is_de_casteljau_of_its_points(shape, input_shape, channel_only):
    curve = TrainableBezier(shape, channel_only=channel_only)
    for point in curve.parameters():
        torch.nn.init.normal_(point)
    x = torch.randn(input_shape)
    expected = trainable_oracle(x, curve, trailing=2 if channel_only else 0)
    assert float((curve(x) - expected).detach().abs().max()) <= 2e-6 * float(expected.abs().max())


def test_trainable_bezier_starts_at_its_arguments():
    curve = TrainableBezier((2,), -2.0, -0.5, 0.5, 2.0)
    assert [point.tolist() for point in curve.parameters()] == [[-2.0] * 2, [-0.5] * 2, [0.5] * 2, [2.0] * 2]
    far = torch.full((1, 2), 50.0)
    torch.testing.assert_close(curve(far), torch.full((1, 2), 2.0))
    torch.testing.assert_close(curve(-far), torch.full((1, 2), -2.0))


@pytest.mark.parametrize("channel_only", [False, True])
def test_trainable_bezier_derivatives(channel_only):
    curve = TrainableBezier((3,) if channel_only else (3, 1, 1), channel_only=channel_only).double()
    x = torch.randn(2, 3, 2, 2, dtype=torch.float64, requires_grad=True)
    points = tuple(torch.randn_like(point).requires_grad_() for point in curve.parameters())

    def call(x: Tensor, *points: Tensor) -> Tensor:
        return torch.func.functional_call(curve, dict(zip(["p0", "p1", "p2", "p3"], points, strict=True)), (x,))

    assert torch.autograd.gradcheck(call, (x, *points))
    assert torch.autograd.gradgradcheck(call, (x, *points))


def test_the_starting_curve_passes_its_input():
    x = torch.linspace(-3, 3, 241, dtype=torch.float64)
    planes = [x, *(torch.full_like(x, point) for point in IDENTITY_POINTS)]
    error = (BezierActivation()(torch.stack(planes, dim=1))[:, 0] - IDENTITY_MIDDLE - x).abs()
    assert error[x.abs() <= 2.5].max() < 0.1
    assert error.max() < 0.31


def test_the_parts_of_an_activation_make_what_it_gives():
    x, points = torch.randn(2, 7, 20), torch.randn(4, 2, 7, 20)
    trainable = TrainableBezier((20,))
    for point in trainable.parameters():
        torch.nn.init.normal_(point)
    calls = [
        (BezierActivation("silu", "tanh"), (x,)),
        (BezierActivation(), (torch.randn(3, 10, 4, 4),)),
        (trainable, (x,)),
    ]
    calls += [(PillarBezier(layout.planes), (x, points)) for layout in LAYOUTS.values()]
    for activation, inputs in calls:
        t, (p0, p1, p2, p3) = activation.parts(*inputs)
        torch.testing.assert_close(activation(*inputs), cubic_bezier(t, p0, p1, p2, p3), rtol=1e-5, atol=1e-5)
