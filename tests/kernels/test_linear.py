"""Linear layers in compiled C, and their gradients of both orders, against PyTorch in float64.

All numbers are positive: gradients that nearly cancel would have rounding errors beyond any share of them.
"""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow.kernels import fast, native
from fluxflow.kernels import linear as kernels
from fluxflow.kernels.linear import Linear, linear, linears

TOLERANCE = 2e-6  # of the largest value
SIZES = st.integers(1, 80)


@pytest.fixture
def compiled(monkeypatch):
    """Layers take the compiled form on processors of all makers."""
    if kernels.library() is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(kernels, "pays", lambda: True)


def assert_same(found, exact):
    for value, reference in zip(found, exact, strict=True):
        assert value.shape == reference.shape
        assert float((value - reference).detach().abs().max()) <= TOLERANCE * float(reference.detach().abs().max())


def assert_close(found, exact):
    for value, reference in zip(found, exact, strict=True):
        assert float((value - reference).norm()) <= 1e-5 * float(reference.norm())


def run(function, *inputs):
    """The output, the gradients of the inputs, and those of a function of these gradients."""
    inputs = [each.detach().requires_grad_() for each in inputs]
    y = function(*inputs)
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs)
    plain = torch.autograd.grad(function(*inputs).square().sum(), inputs)
    return [y, *first, *plain], second


@pytest.mark.usefixtures("compiled")
@settings(max_examples=25, deadline=None)
@given(sizes=st.tuples(st.one_of(st.integers(1, 5), st.integers(128, 300)), SIZES, SIZES), batch=st.integers(1, 3))
def test_one_layer(sizes, batch):
    tokens, width, outputs = sizes
    inputs = torch.rand(batch, tokens, width), torch.rand(outputs, width), torch.rand(outputs)
    (found, second), (exact, exact_second) = run(linear, *inputs), run(F.linear, *(each.double() for each in inputs))
    assert_same(found, exact)
    assert_close(second, exact_second)


@pytest.mark.usefixtures("compiled")
@settings(max_examples=15, deadline=None)
@given(
    sizes=st.tuples(st.one_of(st.integers(1, 5), st.integers(128, 300)), SIZES, SIZES),
    layers=st.integers(2, 4),
    shared=st.booleans(),
)
def test_several_layers(sizes, layers, shared):
    """On inputs of their own, or all on one."""
    tokens, width, outputs = sizes
    x = torch.rand(1 if shared else layers, tokens, width).expand(layers, -1, -1)
    parameters = [torch.rand(outputs, width) for _ in range(layers)] + [torch.rand(outputs) for _ in range(layers)]

    def together(x, *parameters):
        holders = [
            SimpleNamespace(weight=w, bias=b) for w, b in zip(parameters[:layers], parameters[layers:], strict=True)
        ]
        return linears(x, holders)

    def each(x, *parameters):
        return torch.stack([F.linear(x[i], parameters[i], parameters[layers + i]) for i in range(layers)])

    with torch.no_grad():
        assert_same([together(x, *parameters)], [each(*(one.double() for one in (x, *parameters)))])
    found, second = run(together, x, *parameters)
    exact, exact_second = run(each, *(one.double() for one in (x, *parameters)))
    assert_same(found, exact)
    assert_close(second, exact_second)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("gradients", [True, False])
def test_parameters_with_gaps(gradients):
    """As slices of larger ones, on inputs that lie apart."""
    x = torch.rand(256, 5)[::2].expand(2, -1, -1)
    layers = [SimpleNamespace(weight=torch.rand(7, 10)[:, ::2], bias=torch.rand(14)[::2]) for _ in range(2)]
    with torch.set_grad_enabled(gradients):
        found = [linears(x, layers), linear(x[0], layers[0].weight, layers[0].bias)]
    exact = [F.linear(x[0].double(), layer.weight.double(), layer.bias.double()) for layer in layers]
    assert_same(found, [torch.stack(exact), exact[0]])


def test_it_is_for_processors_of_amd(monkeypatch):
    monkeypatch.setattr(kernels, "library", lambda: object())
    for processor, expected in (("AMD64\nvendor_id : GenuineIntel", False), ("x86_64\nvendor_id : AuthenticAMD", True)):
        monkeypatch.setattr(native, "processor", lambda processor=processor: processor)
        assert kernels.pays.__wrapped__() is expected


@pytest.mark.usefixtures("compiled")
def test_when_it_is_taken():
    layer, x = Linear(8, 6), torch.rand(2, 128, 8)
    assert type(layer(x).grad_fn).__name__ == "_LinearBackward"
    plain = [layer(x[:1, :9]), layer.double()(x.double())]
    layer.float()
    with fast(False):
        plain.append(layer(x))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain.append(layer(x))
        assert plain[-1].dtype == torch.bfloat16
    assert all("_Linear" not in type(y.grad_fn).__name__ for y in plain)
