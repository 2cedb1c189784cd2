import itertools
import logging
import os
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch

from fluxflow.kernels import bezier_native
from fluxflow.kernels.bezier import bezier, bezier_reference

ROOT = Path(__file__).parents[2]
ASKED = torch.float32, 1, 2  # sigmoid and SiLU


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and a process that has loaded nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(bezier_native, "library", bezier_native.library.__wrapped__)
    monkeypatch.setattr(bezier_native, "failures", [])
    return tmp_path / "fluxflow" / "kernels"


needs_compiler = pytest.mark.skipif(bezier_native.library(*ASKED) is None, reason="needs a C compiler")


@needs_compiler
def test_one_library_that_is_compiled_once(fresh):
    first = bezier_native.compiled(fresh, *ASKED)
    written = first.stat().st_mtime_ns
    assert bezier_native.compiled(fresh, *ASKED) == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in fresh.iterdir()] == [first.name]
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700


@needs_compiler
def test_several_may_compile_at_once(fresh):
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda folder: bezier_native.compiled(folder, *ASKED), [fresh] * 3))
    assert [*fresh.iterdir()] == [*paths]


@needs_compiler
@pytest.mark.parametrize("what", ["OPTIONS", "VARIANTS", "processor"])
def test_another_build_has_another_name(fresh, monkeypatch, what):
    first = bezier_native.compiled(fresh, *ASKED)
    changed = {"OPTIONS": [*bezier_native.OPTIONS, "-g"], "VARIANTS": ([],), "processor": lambda: "another"}
    monkeypatch.setattr(bezier_native, what, changed[what])
    assert bezier_native.compiled(fresh, *ASKED) != first


@needs_compiler
def test_a_library_for_each_dtype_and_pair_of_activations(fresh):
    asked = itertools.product(bezier_native.TYPES, (1, 2), (1, 2))
    paths = {bezier_native.compiled(fresh, *build) for build in asked}
    assert len(paths) == len([*fresh.iterdir()]) == 8


@needs_compiler
def test_a_compiler_that_knows_less(fresh, monkeypatch):
    """Options that are refused are left out."""
    monkeypatch.setattr(bezier_native, "VARIANTS", (["-march=that-of-tomorrow"], []))
    assert bezier_native.compiled(fresh, *ASKED).is_file()


@pytest.mark.parametrize("compiler", ["/no/such/cc", "false", f"{sys.executable} -c 1"])
def test_without_a_compiler_the_plain_form_says_so_once(tmp_path, compiler):
    code = """
import torch
from fluxflow.kernels.bezier import bezier, bezier_reference
x = torch.randn(2, 20, requires_grad=True)
for points in ("silu", None):
    y = bezier(x, 1, "sigmoid", points)
    y.sum().backward()
    assert torch.equal(y, bezier_reference(x, 1, "sigmoid", points))
"""
    environment = {**os.environ, "CC": compiler, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stderr.count("Bézier curves run in plain PyTorch") == 1


def test_a_source_that_does_not_compile(fresh, monkeypatch, caplog, tmp_path):
    source = tmp_path / "bezier.c"
    source.write_text("this is not C")
    monkeypatch.setattr(bezier_native, "SOURCE", source)
    with caplog.at_level(logging.WARNING):
        assert bezier_native.library(*ASKED) is None
    assert "could not be compiled" in caplog.text


@needs_compiler
def test_float64_and_subclasses_stay_in_pytorch():
    assert not bezier_native.takes(torch.zeros(5, dtype=torch.float64), *ASKED[1:])
    assert not bezier_native.takes(torch.nn.Parameter(torch.zeros(5)), *ASKED[1:])
    assert bezier_native.takes(torch.zeros(5), *ASKED[1:])


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
