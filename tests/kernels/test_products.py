"""Batched products by compiled C against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow.kernels import products

TOLERANCE = 2e-6  # of the sum of the terms' magnitudes
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([64, 257, 600]))

pytestmark = pytest.mark.skipif(products.library() is None, reason="needs a C compiler")


def drawn(data: st.DataObject, *shape: int) -> Tensor:
    """Matrices whose rows or whose columns lie side by side, in the midst of others."""
    *count, rows, columns = shape
    if data.draw(st.booleans()):
        return torch.randn(*count, rows + 2, columns + 3)[..., 1:-1, 2:-1]
    return torch.randn(*count, columns, rows).mT


def exact(x: Tensor | None) -> Tensor:
    """Real matrices [N, …], or the complex ones of [N, 2, …], in double precision."""
    if x is None:
        return torch.zeros((), dtype=torch.float64)
    return x.double() if x.dim() == 3 else torch.complex(x[:, 0].double(), x[:, 1].double())


@settings(max_examples=80, deadline=None)
@given(
    parts=st.sampled_from([[], [2]]),
    count=st.integers(1, 3),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    plus=st.sampled_from(["", "matrix", "row"]),
    data=st.data(),
)
def test_multiply(parts, count, sizes, plus, data):
    rows, depth, columns = sizes
    a, b = drawn(data, count, *parts, rows, depth), drawn(data, count, *parts, depth, columns)
    base = torch.randn(count, *parts, rows if plus == "matrix" else 1, columns) if plus else None
    base = base if base is None else base.expand(count, *parts, rows, columns)
    found = products.multiply(a, b, base)
    error = (exact(found) - (exact(a) @ exact(b) + exact(base))).abs()
    assert (error <= TOLERANCE * (exact(a).abs() @ exact(b).abs() + exact(base).abs())).all()
    if base is not None and plus == "matrix":
        assert products.multiply(a, b, base, base) is base
        assert torch.equal(base, found)


def test_nothing_outside_is_written():
    """A product into some matrices of a larger tensor leaves the rest alone, at sizes that no block divides."""
    whole = torch.zeros(4, 13, 37)
    products.multiply(torch.randn(2, 13, 5), torch.randn(2, 5, 37), out=whole[1:3])
    assert whole[1:3].all()
    assert not whole[::3].any()


@pytest.mark.parametrize("parts", [[], [2]])
def test_threads_do_not_change_the_result(parts):
    """However many there are, and more than pieces of work."""
    a, b, before = torch.randn(3, *parts, 600, 70), torch.randn(3, *parts, 70, 100), torch.get_num_threads()
    found = []
    for threads in (1, 2, 3, 50):
        torch.set_num_threads(threads)
        found.append(products.multiply(a, b))
    torch.set_num_threads(before)
    assert all(torch.equal(each, found[0]) for each in found)
