"""The pillars' input in compiled C, and its gradients of both orders, against PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st

from fluxflow.kernels import fast, gates
from fluxflow.models.layouts import normalised

TOLERANCE = 2e-6  # of the largest value

pytestmark = pytest.mark.skipif(gates.library() is None, reason="needs a C compiler")


def formula(gate, points, gamma, beta):
    return F.layer_norm(gate * points, gate.shape[-1:]) * (1 + gamma) + beta


def drawn(batch, tokens, dim):
    shapes = (batch, tokens, dim), (4, batch, tokens, dim), (4, batch, 1, dim), (4, batch, 1, dim)
    return [torch.randn(shape) for shape in shapes]


def run(function, inputs, grad):
    """The output, the gradients of the inputs taken in both ways, and those of a function of these."""
    inputs = [each.detach().requires_grad_() for each in inputs]
    y = function(*inputs)
    plain = torch.autograd.grad(y, inputs, grad, retain_graph=True)
    first = torch.autograd.grad(y, inputs, grad, create_graph=True)
    second = torch.autograd.grad(sum(each.square().sum() for each in first), inputs[:3])
    return [y.detach(), *plain, *(each.detach() for each in first)], second


@given(batch=st.integers(1, 3), tokens=st.integers(1, 80), dim=st.integers(8, 80))
def test_output_and_gradients(batch, tokens, dim):
    inputs, grad = drawn(batch, tokens, dim), torch.randn(4, batch, tokens, dim)
    inputs[0] = inputs[0].sigmoid()
    found, second = run(gates.normalised_gates, inputs, grad)
    exact, exact_second = run(formula, [each.double() for each in inputs], grad.double())
    for value, reference in zip(found, exact, strict=True):
        assert value.shape == reference.shape
        assert float((value - reference).abs().max()) <= TOLERANCE * float(reference.abs().max().clamp(min=1))
    for value, reference in zip(second, exact_second, strict=True):
        assert float((value - reference).norm()) <= 1e-4 * float(reference.norm() + 1)


def test_threads_do_not_change_the_result():
    inputs, before, results = drawn(2, 70, 24), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        results.append(run(gates.normalised_gates, inputs, torch.ones(4, 2, 70, 24))[0])
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_what_is_not_finite_is_seen():
    gate, *others = drawn(2, 5, 8)
    gate[1, 3, 2] = float("nan")
    assert torch.equal(gates.normalised_gates(gate, *others).isnan(), formula(gate, *others).isnan())


def test_when_it_is_taken():
    gate, points, *film = (each.requires_grad_() for each in drawn(2, 6, 8))
    assert "_Gates" in type(normalised(gate, points, film).grad_fn).__name__
    plain = [normalised(gate, points, None), normalised(gate, None, film)]
    plain.append(normalised(gate.double(), points.double(), [each.double() for each in film]))
    with fast(False):
        plain.append(normalised(gate, points, film))
    assert all("_Gates" not in type(y.grad_fn).__name__ for y in plain)
    torch.testing.assert_close(plain[-1], plain[-2].float())
