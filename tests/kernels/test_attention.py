"""Self-attention in compiled C, and its gradients of both orders, against the formula in float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fluxflow.kernels import attention, fast, linear
from fluxflow.kernels.attention import self_attention
from fluxflow.models.attention import rotary_2d

CPU = torch.device("cpu")
TOLERANCE = 2e-6  # of the largest value


@pytest.fixture
def compiled(monkeypatch):
    """It takes the compiled form on processors of all makers."""
    if attention.library() is None:
        pytest.skip("needs a C compiler")
    monkeypatch.setattr(linear, "pays", lambda: True)


def formula(qkv, heads, rotary):
    """softmax(q·kᵀ / √dim)·v, with pairs of channels as complex numbers that the angles turn."""
    q, k, v = (x.unflatten(-1, (heads, -1)).transpose(1, 2) for x in qkv.chunk(3, dim=-1))
    if rotary is not None:
        half = q.shape[-1] // 2
        turn = torch.complex(rotary[0][:, half:].to(q.dtype), rotary[1][:, half:].to(q.dtype))
        turned = [torch.complex(x[..., :half], x[..., half:]) * turn for x in (q, k)]
        q, k = (torch.cat([x.real, x.imag], dim=-1) for x in turned)
    weights = (q @ k.mT / q.shape[-1] ** 0.5).softmax(dim=-1)
    return (weights @ v).transpose(1, 2).flatten(2)


def run(function, qkv, grad, *options):
    """The output, its gradient, and that of a function of the gradient."""
    qkv = qkv.detach().requires_grad_()
    y = function(qkv, *options)
    (plain,) = torch.autograd.grad(y, qkv, grad, retain_graph=True)
    (first,) = torch.autograd.grad(y, qkv, grad, create_graph=True)
    (second,) = torch.autograd.grad(first.square().sum(), qkv)
    return [y.detach(), plain, first.detach()], second


@pytest.mark.usefixtures("compiled")
@settings(max_examples=40, deadline=None)
@given(
    batch=st.integers(1, 3),
    grid=st.tuples(st.integers(1, 20), st.integers(1, 20)),
    heads=st.integers(1, 4),
    pairs=st.integers(1, 40),
    turns=st.booleans(),
)
def test_output_and_gradients(batch, grid, heads, pairs, turns):
    tokens, dim = grid[0] * grid[1], 2 * pairs + (0 if turns else 1)
    rotary = rotary_2d(*grid, dim, CPU) if turns else None
    qkv, grad = torch.randn(batch, tokens, 3 * heads * dim), torch.randn(batch, tokens, heads * dim)
    found, second = run(self_attention, qkv, grad, heads, rotary)
    exact, exact_second = run(formula, qkv.double(), grad.double(), heads, rotary)
    values = qkv.abs().max()  # with one token the gradient of queries and keys is zero
    for value, reference in zip(found, exact, strict=True):
        assert float((value - reference).abs().max()) <= TOLERANCE * float(max(reference.abs().max(), values))
    assert float((second - exact_second).norm()) <= 1e-5 * float(exact_second.norm() + 1)


@pytest.mark.usefixtures("compiled")
def test_more_tokens_than_scores_fit_into_the_cache():
    qkv, grad = torch.randn(1, 10_000, 3 * 4), torch.randn(1, 10_000, 4)
    inputs = qkv.clone().requires_grad_()
    y = self_attention(inputs, 1, rotary_2d(100, 100, 4, CPU))
    exact = formula(qkv[:, :, :].double(), 1, rotary_2d(100, 100, 4, CPU))
    assert float((y.detach() - exact).abs().max()) <= TOLERANCE * float(exact.abs().max())
    assert torch.autograd.grad(y, inputs, grad)[0].isfinite().all()


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize("part", [0, 1, 2])
def test_what_is_not_finite_is_seen(part):
    """By the tokens that attend to it, of the same head and example."""
    qkv = torch.randn(2, 40, 3 * 2 * 8)
    qkv[1, 5, part * 16 + 8] = float("nan")
    found, expected = self_attention(qkv, 2), formula(qkv, 2, None)
    assert torch.equal(found.isnan(), expected.isnan())
    assert found.isnan().any()
    torch.testing.assert_close(found.nan_to_num(), expected.nan_to_num(), atol=1e-5, rtol=1e-5)


@pytest.mark.usefixtures("compiled")
def test_scores_of_any_size():
    """Far ones take no part, however far; the largest do not overflow."""
    qkv = 300 * torch.randn(1, 50, 3 * 16)
    expected = formula(qkv.double(), 1, None)
    torch.testing.assert_close(self_attention(qkv, 1).double(), expected, atol=1e-2, rtol=1e-3)


@pytest.mark.usefixtures("compiled")
def test_threads_do_not_change_the_result():
    x, before, results = torch.randn(2, 70, 3 * 24), torch.get_num_threads(), []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs = x.clone().requires_grad_()
        y = self_attention(inputs, 3, rotary_2d(7, 10, 8, CPU))
        results.append((y.detach(), torch.autograd.grad(y.square().sum(), inputs)[0]))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


@pytest.mark.usefixtures("compiled")
def test_when_it_is_taken():
    qkv = torch.randn(2, 12, 3 * 16, requires_grad=True)
    assert "_Attention" in type(self_attention(qkv, 2).grad_fn).__name__
    plain = [self_attention(qkv.double(), 2)]
    with fast(False):
        plain.append(self_attention(qkv, 2))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        plain.append(self_attention(qkv, 2))
    assert all("_Attention" not in type(y.grad_fn).__name__ for y in plain)
    with pytest.raises(RuntimeError, match="must match"):
        self_attention(qkv, 2, rotary_2d(2, 5, 8, CPU))  # of another grid
