"""The Triton kernels: on a GPU where there is one, else in Triton's interpreter."""

import importlib
import os
import subprocess
import sys
from types import ModuleType
from unittest import mock

import pytest
import torch

from fluxflow.kernels import bezier as plain
from tests.kernels.test_bezier import KINDS, relative_error
from tests.oracles import bezier_planes

pytest.importorskip("triton")
DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# The interpreter cuts off what bfloat16 does not hold, where a GPU rounds: a whole unit in the last of eight digits.
TOLERANCE = {torch.float32: 2e-6, torch.bfloat16: 2**-7, torch.float16: 2**-11}


@pytest.fixture(scope="module")
def form() -> ModuleType:
    with mock.patch.dict(os.environ, {"TRITON_INTERPRET": "0" if DEVICE == "cuda" else "1"}):
        return importlib.import_module("fluxflow.kernels.bezier_triton")


def run(form: ModuleType, x: torch.Tensor, grad: torch.Tensor | None, dim: int, *kinds: str | None) -> torch.Tensor:
    """The curve or its gradient by the Triton kernels."""
    return plain._run(form, x, grad, dim, plain._kinds(*kinds))


def assert_equals_float64(form: ModuleType, x: torch.Tensor, dim: int, *kinds: str | None) -> None:
    """Output and gradient against the oracle."""
    exact = x.double().requires_grad_()
    expected = bezier_planes(exact, dim, *kinds)
    upstream = torch.randn(expected.shape, device=x.device).to(x.dtype)
    (expected_gradient,) = torch.autograd.grad(expected, exact, upstream.double())
    y, gradient = (run(form, x, grad, dim, *kinds) for grad in (None, upstream))
    assert (y.dtype, gradient.dtype) == (x.dtype, x.dtype)
    assert relative_error(y, expected) <= TOLERANCE[x.dtype]
    assert relative_error(gradient, expected_gradient) <= TOLERANCE[x.dtype]


@pytest.mark.parametrize("t_activation", KINDS)
@pytest.mark.parametrize("p_activation", KINDS)
def test_all_activations(form, t_activation, p_activation):
    assert_equals_float64(form, torch.randn(2, 15, 7, 5, device=DEVICE), 1, t_activation, p_activation)


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize(
    ("shape", "dim"), [((2, 20, 16, 16), 1), ((3, 7, 5 * 67), 2), ((2, 5 * 301), 1), ((1, 10, 33, 65), 1), ((5, 1), 0)]
)
def test_shapes(form, dtype, shape, dim):
    assert_equals_float64(form, torch.randn(shape, device=DEVICE).to(dtype), dim, "sigmoid", "silu")


def test_channels_last(form):
    x = torch.randn(2, 20, 9, 7, device=DEVICE).to(memory_format=torch.channels_last)
    assert_equals_float64(form, x, 1, "sigmoid", "silu")
    y = run(form, x, None, 1, "sigmoid", "silu")
    assert y.is_contiguous(memory_format=torch.channels_last)


def test_nan_stays(form):
    x = torch.randn(5, 40, device=DEVICE)
    x[3, 7] = torch.nan
    assert run(form, x, None, 0, "sigmoid", "relu")[0].isnan().nonzero().tolist() == [[7]]


COMPILED = """
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, compile
from fluxflow.kernels import bezier_triton

constants = {"T": "constexpr", "P": "constexpr", "LONG": "constexpr", "SIZE": "constexpr"}
for dtype in "fp32", "bf16", "fp16":
    for kernel, tensors in (bezier_triton._forward, "x y"), (bezier_triton._backward, "x grad grad_x"):
        for t, p, long in (0, 0, False), (1, 2, False), (3, 4, False), (1, 2, True):
            sizes = dict.fromkeys(("total", "plane"), "i64" if long else "i32")
            signature = dict.fromkeys(tensors.split(), "*" + dtype) | sizes | constants
            source = ASTSource(kernel, signature, {"T": t, "P": p, "LONG": long, "SIZE": bezier_triton.BLOCK})
            assert compile(source, target=GPUTarget("cuda", 90, 32)).asm["cubin"]
"""


def test_compiles_for_a_gpu_that_is_not_here(tmp_path):
    """For an H100; what the interpreter takes need not be what the compiler does."""
    environment = os.environ | {"TRITON_INTERPRET": "0", "TRITON_CACHE_DIR": str(tmp_path)}
    subprocess.run([sys.executable, "-c", COMPILED], env=environment, check=True)


@pytest.mark.skipif(DEVICE == "cpu", reason="needs a GPU")
def test_cuda_tensors_come_here(form):
    x = torch.randn(2, 20, 8, 8, device="cuda", requires_grad=True)
    assert plain._form(x.detach(), 1, plain._kinds("sigmoid", "silu")) is form
    y = plain.bezier(x, 1, "sigmoid", "silu")
    (gradient,) = torch.autograd.grad(y.sum(), x)
    (expected,) = torch.autograd.grad(plain.bezier_reference(x.double(), 1, "sigmoid", "silu").sum(), x)
    assert relative_error(gradient, expected) <= 2e-6
