"""Batched products by compiled C against float64."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fluxflow.kernels import products

TOLERANCE = 2e-6  # of the largest value
SIZES = st.one_of(st.integers(1, 40), st.sampled_from([64, 257, 600]))

pytestmark = pytest.mark.skipif(products.library() is None, reason="needs a C compiler")


def drawn(data: st.DataObject, *shape: int) -> Tensor:
    """Matrices whose rows or whose columns lie side by side, in the midst of others."""
    *count, rows, columns = shape
    if data.draw(st.booleans()):
        return torch.randn(*count, rows + 2, columns + 3)[..., 1:-1, 2:-1]
    return torch.randn(*count, columns, rows).mT


@settings(max_examples=60, deadline=None)
@given(
    count=st.integers(1, 3),
    sizes=st.tuples(SIZES, SIZES, SIZES),
    plus=st.sampled_from(["", "matrix", "row"]),
    data=st.data(),
)
def test_multiply(count, sizes, plus, data):
    rows, depth, columns = sizes
    a, b = drawn(data, count, rows, depth), drawn(data, count, depth, columns)
    base = None
    if plus:
        base = torch.randn(count, rows if plus == "matrix" else 1, columns).expand(-1, rows, -1)
    exact = a.double() @ b.double() + (0 if base is None else base.double())
    found = products.multiply(a, b, base)
    assert float((found - exact).abs().max()) <= TOLERANCE * float(exact.abs().max())
    if plus == "matrix":
        assert products.multiply(a, b, base, base) is base
        assert torch.equal(base, found)


def test_nothing_outside_is_written():
    """A product into some matrices of a larger tensor leaves the rest alone, at sizes that no block divides."""
    whole = torch.zeros(4, 13, 37)
    products.multiply(torch.randn(2, 13, 5), torch.randn(2, 5, 37), out=whole[1:3])
    assert whole[1:3].all()
    assert not whole[::3].any()
