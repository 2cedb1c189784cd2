from collections.abc import Callable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from fluxflow.kernels import conv, fast
from fluxflow.kernels.autotune import Autotuner
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


@pytest.mark.parametrize(("layer", "sizes"), [
    (Conv2dStride2(4, 10, 8, 3), st.integers(6, 33)),
    (ConvTranspose2dStride2(4, 10, 16, 7), st.integers(1, 20)),
])  # fmt: skip
@given(batch=st.integers(1, 2), data=st.data())
def test_float32_at_the_kernels_of_the_networks(layer, sizes, batch, data):
    layer.reset_parameters()
    x = torch.randn(batch, 4, data.draw(sizes), data.draw(sizes))
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


FORMS = [(conv.FORMS, name) for name in conv.FORMS] + [(conv.TRANSPOSED_FORMS, name) for name in conv.TRANSPOSED_FORMS]


def run_form(form: conv.Form, x: Tensor, weight: Tensor, bias: Tensor | None, padding: int) -> list[Tensor]:
    leaves = [tensor.detach().requires_grad_() for tensor in (x, weight, bias) if tensor is not None]
    y = form(leaves[0], leaves[1], leaves[2] if len(leaves) == 3 else None, padding)
    upstream = torch.randn(y.shape, generator=torch.Generator().manual_seed(1), dtype=torch.float64).to(y.dtype)
    return [y, *torch.autograd.grad(y, leaves, upstream)]


@pytest.mark.parametrize(("forms", "name"), FORMS)
@given(height=st.integers(5, 9), width=st.integers(5, 9), kernel=st.sampled_from([2, 4, 6, 8]), data=st.data())
def test_forms_are_equal(forms, name, height, width, kernel, data):
    """Each form in float32 against the direct one in float64, odd sizes, paddings and no bias included."""
    padding = data.draw(st.integers(0, kernel // 2))
    size = (3, 4) if forms is conv.TRANSPOSED_FORMS else (4, 3)
    x, weight = torch.randn(2, 3, height + 3, width + 3), torch.randn(*size, kernel, kernel)
    bias = data.draw(st.sampled_from([None, torch.randn(4)]))
    exact = [None if tensor is None else tensor.double() for tensor in (x, weight, bias)]
    expected = run_form(forms["direct"], *exact, padding)
    values = [value.double() for value in run_form(forms[name], x, weight, bias, padding)]
    assert_same(values, expected, 2e-6)


@pytest.mark.parametrize("name", conv.TRANSPOSED_FORMS)
def test_forms_at_the_kernel_of_the_decoder(name):
    x, weight, bias = torch.randn(1, 4, 6, 5), torch.randn(4, 10, 16, 16), torch.randn(10)
    expected = run_form(conv.TRANSPOSED_FORMS["direct"], x.double(), weight.double(), bias.double(), 7)
    values = run_form(conv.TRANSPOSED_FORMS[name], x, weight, bias, 7)
    assert_same([value.double() for value in values], expected, 2e-6)


class FakeClock:
    """Runs each form and says what it is told to say."""

    def __init__(self, *times: float) -> None:
        self.times, self.runs = list(times), 0

    def __call__(self, run: Callable[[], None]) -> float:
        run()
        self.runs += 1
        return self.times[(self.runs - 1) % len(self.times)]


@pytest.mark.parametrize("times", [(4, 3, 2, 1), (2, 1, 3, 4), (1, 1, 1, 1)])
def test_the_fastest_form_is_taken_and_remembered(times):
    tuner, x, weight = (
        Autotuner(FakeClock(*times)),
        torch.randn(1, 2, 4, 4),
        torch.randn(2, 3, 4, 4, requires_grad=True),
    )
    names = [tuner.fastest(conv.TRANSPOSED_FORMS, x, weight, None, 1) for _ in range(3)]
    assert names == [[*conv.TRANSPOSED_FORMS][times.index(min(times))]] * 3
    assert tuner.clock.runs == 4


def test_what_decides_is_timed_anew():
    tuner, x, weight = Autotuner(FakeClock(1.0)), torch.randn(2, 4, 8, 8), torch.randn(3, 4, 4, 4)
    frozen = weight.clone()
    trained = weight.requires_grad_()
    cases = [
        (x, frozen, 1),
        (x, trained, 1),
        (x, frozen, 0),
        (x[:1], frozen, 1),
        (x.bfloat16(), frozen.bfloat16(), 1),
        (x.to(memory_format=torch.channels_last), frozen, 1),
    ]
    for count, (x, weight, padding) in enumerate(cases, start=1):
        tuner.fastest(conv.FORMS, x, weight, None, padding)
        assert tuner.clock.runs == len(conv.FORMS) * count
    with torch.no_grad():
        tuner.fastest(conv.FORMS, cases[1][0], trained, None, 1)
    assert tuner.clock.runs == len(conv.FORMS) * len(cases)  # without a backward both weights are alike


def test_trials_leave_no_trace():
    """Neither gradients nor random numbers, and a checkpoint around the layer recomputes what it saved."""
    tuner, layer = Autotuner(FakeClock(3, 1)), Conv2dStride2(3, 4, 4, 1)
    x, state = torch.randn(2, 3, 8, 8, requires_grad=True), torch.get_rng_state()

    def call(x: Tensor) -> Tensor:
        name = tuner.fastest(conv.FORMS, x, layer.weight, layer.bias, 1)
        return conv.FORMS[name](x, layer.weight, layer.bias, 1)

    y = checkpoint(call, x, use_reentrant=False)
    assert torch.equal(torch.get_rng_state(), state)
    assert layer.weight.grad is None
    y.sum().backward()
    assert tuner.clock.runs == 2
    (expected,) = torch.autograd.grad(layer(x).sum(), layer.weight)
    assert torch.equal(layer.weight.grad, expected)


@pytest.mark.parametrize(("ours", "torchs"), LAYERS)
def test_the_switch_leads_to_pytorchs_own(ours, torchs):
    layer = ours(3, 4, 4, 1)
    reference = torchs(3, 4, 4, stride=2, padding=1)
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 3, 8, 8)
    with fast(False):
        assert all(map(torch.equal, run(layer, x), run(reference, x)))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize(("ours", "torchs"), LAYERS)
def test_on_cuda_the_choice_is_timed(ours, torchs, monkeypatch):
    monkeypatch.setattr(torch.backends.cudnn, "benchmark", True)
    monkeypatch.setattr(torch.backends.cudnn.conv, "fp32_precision", "ieee")
    monkeypatch.setattr(conv, "autotuner", Autotuner())
    layer = ours(8, 16, 8, 3).cuda()
    reference = torchs(8, 16, 8, stride=2, padding=3).cuda()
    reference.load_state_dict(layer.state_dict())
    x = torch.randn(2, 8, 16, 16, device="cuda")
    values = [value.double() for value in run(layer, x)]
    assert len(conv.autotuner.winners) == 1
    assert_same(values, run(reference.double(), x.double()), 2e-5)
