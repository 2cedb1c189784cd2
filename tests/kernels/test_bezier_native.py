import itertools

import pytest
import torch

from fluxflow.kernels import bezier_native
from fluxflow.kernels.bezier import bezier, bezier_reference

needs_compiler = pytest.mark.skipif(bezier_native.library(torch.float32, 1, 2) is None, reason="needs a C compiler")


@needs_compiler
def test_a_library_for_each_dtype_and_pair_of_activations():
    asked = itertools.product(bezier_native.TYPES, (1, 2), (1, 2))
    assert len({bezier_native.library(*build)._name for build in asked}) == 8


@needs_compiler
def test_float64_and_subclasses_stay_in_pytorch():
    assert not bezier_native.takes(torch.zeros(5, dtype=torch.float64), 1, 2)
    assert not bezier_native.takes(torch.nn.Parameter(torch.zeros(5)), 1, 2)
    assert bezier_native.takes(torch.zeros(5), 1, 2)


@needs_compiler
def test_threads_do_not_change_the_result():
    x, before = torch.randn(3, 20, 64, 63), torch.get_num_threads()
    results = []
    for threads in (1, 2, 3):
        torch.set_num_threads(threads)
        inputs = x.clone().requires_grad_()
        y = bezier(inputs, 1, "sigmoid", "silu")
        results.append((y.detach(), torch.autograd.grad(y.sum(), inputs)[0]))
    torch.set_num_threads(before)
    for result in results[1:]:
        assert all(map(torch.equal, result, results[0]))


def test_tensors_without_memory_take_the_plain_form():
    x = torch.empty(2, 20, 4, device="meta")
    assert bezier(x, 1, "sigmoid", "silu").shape == (2, 4, 4)


@pytest.mark.parametrize("shape", [(0, 10), (2, 0, 3)])
def test_empty(shape):
    x = torch.zeros(shape)
    assert bezier(x, 1, "sigmoid", None).shape == bezier_reference(x, 1, "sigmoid", None).shape
