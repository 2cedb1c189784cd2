import logging
import os
import shutil
import stat
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from fluxflow.kernels import native

ROOT = Path(__file__).parents[2]
ASKED = "bezier.c", "T_KIND=1", "P_KIND=2"  # sigmoid and SiLU


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """An empty cache folder, and a process that has loaded nothing yet."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(native, "library", native.library.__wrapped__)
    monkeypatch.setattr(native, "failures", [])
    return tmp_path / "fluxflow" / "kernels"


needs_compiler = pytest.mark.skipif(native.library(*ASKED) is None, reason="needs a C compiler")


@needs_compiler
def test_one_library_that_is_compiled_once(fresh):
    first = native.compiled(fresh, *ASKED)
    written = first.stat().st_mtime_ns
    assert native.compiled(fresh, *ASKED) == first
    assert first.stat().st_mtime_ns == written
    assert [path.name for path in fresh.iterdir()] == [first.name]
    assert stat.S_IMODE(fresh.stat().st_mode) == 0o700


@needs_compiler
@pytest.mark.parametrize("source", sorted(path.name for path in native.FOLDER.glob("*.c")))
def test_all_sources_compile(fresh, source):
    """One that does not would be made up for in silence, and its tests left out."""
    constants = {"bezier.c": ASKED[1:], "fourier.c": ("TAPS=5", "TILE=4")}
    assert native.compiled(fresh, source, *constants.get(source, ())).is_file()


@needs_compiler
def test_several_may_compile_at_once(fresh):
    with ThreadPoolExecutor(3) as pool:
        paths = set(pool.map(lambda folder: native.compiled(folder, *ASKED), [fresh] * 3))
    assert [*fresh.iterdir()] == [*paths]


@needs_compiler
@pytest.mark.parametrize("what", ["OPTIONS", "VARIANTS", "processor"])
def test_another_build_has_another_name(fresh, monkeypatch, what):
    first = native.compiled(fresh, *ASKED)
    changed = {"OPTIONS": [*native.OPTIONS, "-g"], "VARIANTS": ([],), "processor": lambda: "another"}
    monkeypatch.setattr(native, what, changed[what])
    assert native.compiled(fresh, *ASKED) != first


@needs_compiler
def test_a_header_counts_as_the_source_does(fresh, monkeypatch, tmp_path):
    for file in (native.FOLDER / "bezier.c", *native.FOLDER.glob("*.h")):
        shutil.copy(file, tmp_path)
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    first = native.compiled(fresh, *ASKED)
    with (tmp_path / "parallel.h").open("a") as header:
        header.write("/* another */")
    assert native.compiled(fresh, *ASKED) != first


@needs_compiler
def test_other_constants_make_another_library(fresh):
    for constants in (["T_KIND=1", "P_KIND=2"], ["T_KIND=2", "P_KIND=2"], ["T_KIND=1", "P_KIND=2", "BFLOAT16"]):
        native.compiled(fresh, "bezier.c", *constants)
    assert len([*fresh.iterdir()]) == 3


@needs_compiler
def test_a_compiler_that_knows_less(fresh, monkeypatch):
    """Options that are refused are left out."""
    monkeypatch.setattr(native, "VARIANTS", (["-march=that-of-tomorrow"], []))
    assert native.compiled(fresh, *ASKED).is_file()


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
from torch import nn
from fluxflow.kernels import tiling
from fluxflow.kernels.conv import Conv2dSame
tiling.best_tile = lambda *arguments: 4
layer, x = Conv2dSame(2, 3, 5), torch.randn(1, 2, 8, 8)
assert torch.equal(layer(x), nn.functional.conv2d(x, layer.weight, layer.bias, padding=2))
"""
    environment = {**os.environ, "CC": compiler, "XDG_CACHE_HOME": str(tmp_path), "PYTHONPATH": str(ROOT)}
    result = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True, cwd=tmp_path
    )
    assert result.stderr.count("run in plain PyTorch") == 1


def test_a_source_that_does_not_compile(fresh, monkeypatch, caplog, tmp_path):
    (tmp_path / "bezier.c").write_text("this is not C")
    monkeypatch.setattr(native, "FOLDER", tmp_path)
    with caplog.at_level(logging.WARNING):
        assert native.library(*ASKED) is None
    assert "could not be compiled" in caplog.text
