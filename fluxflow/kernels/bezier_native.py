"""The Bézier activation on CPU by bezier.c, compiled at the first use of a dtype and a pair of activations.

The library is kept in a folder of the user's, under a name that changes with the source, the compiler, its options and
the processor; processes that compile it at the same time each write their own file and rename it. Without a working C
compiler the activation stays in plain PyTorch, which is said once. TorchInductor would need the same compiler and a
warm-up of many seconds in each process for a slower kernel.
"""

import ctypes
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from functools import cache
from pathlib import Path

import torch
from torch import Tensor

log = logging.getLogger(__name__)

SOURCE = Path(__file__).with_name("bezier.c")
TYPES = {torch.float32: [], torch.bfloat16: ["-DBFLOAT16"]}  # as bezier.c is told
# NaN and infinity are kept, unlike with -ffast-math.
OPTIONS = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
# The first that the compiler accepts: some know no OpenMP or no native processor.
VARIANTS = (["-march=native", "-fopenmp"], ["-march=native", "-fopenmp-simd"], [])
SMALL = 1 << 15  # values below which threads cost more than they save
failures: list[Exception] = []  # of this process to have a library; the first is told


def processor() -> str:
    """What code for the native processor depends on."""
    description = Path("/proc/cpuinfo")
    lines = description.read_text(encoding="utf-8").splitlines() if description.is_file() else []
    first = {line.split(":")[0].strip(): line for line in reversed(lines)}
    return "\n".join([platform.machine(), platform.processor(), first.get("model name", ""), first.get("flags", "")])


def compiled(folder: Path, dtype: torch.dtype, t_kind: int, p_kind: int) -> Path:
    """The library for this dtype and these activations in `folder`, compiled if it is not there.

    Raises:
        OSError: if there is no compiler, or the folder cannot be written.
        subprocess.CalledProcessError: if the compiler refuses the source with all variants of its options.
    """
    compiler = shlex.split(os.environ.get("CC", "cc"))
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    options = [*OPTIONS, *TYPES[dtype], f"-DT_KIND={t_kind}", f"-DP_KIND={p_kind}"]
    what = (SOURCE.read_text(encoding="utf-8"), compiler, version, options, VARIANTS, processor())
    library = folder / f"bezier-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / library.name
        for variant in VARIANTS:
            command = [*compiler, *options, *variant, str(SOURCE), "-o", str(fresh)]
            result = subprocess.run(command, capture_output=True, text=True)
            if result.returncode == 0:
                break
        result.check_returncode()
        fresh.replace(library)
    return library


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fluxflow" / "kernels"


@cache
def library(dtype: torch.dtype, t_kind: int, p_kind: int) -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had."""
    try:
        loaded = ctypes.CDLL(str(compiled(cache_folder(), dtype, t_kind, p_kind)))
    except (OSError, subprocess.CalledProcessError) as error:
        if not failures:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            log.warning(
                "Bézier curves run in plain PyTorch, several times slower: their C source could not be compiled (%s)."
                " A C compiler named cc or in the variable CC, and a cache folder that can be written, mend this.",
                reason[-1] if reason else type(error).__name__,
            )
        failures.append(error)
        return None
    shape = [ctypes.c_int64, ctypes.c_int64, ctypes.c_int]
    loaded.bezier_forward.argtypes = [ctypes.c_void_p] * 2 + shape
    loaded.bezier_backward.argtypes = [ctypes.c_void_p] * 3 + shape
    loaded.bezier_forward.restype = loaded.bezier_backward.restype = None
    return loaded


def takes(x: Tensor, t_kind: int, p_kind: int) -> bool:
    """Whether x is a tensor that a library can work on; tensors of subclasses may have no memory."""
    return x.dtype in TYPES and type(x) is Tensor and library(x.dtype, t_kind, p_kind) is not None


def _call(name: str, tensors: tuple[Tensor, ...], plane: int, t_kind: int, p_kind: int) -> None:
    x = tensors[0]
    threads = torch.get_num_threads() if x.numel() >= SMALL else 1
    pointers = (tensor.data_ptr() for tensor in tensors)
    outer = x.numel() // (5 * plane)
    getattr(library(x.dtype, t_kind, p_kind), name)(*pointers, outer, plane, threads)


def forward(x: Tensor, y: Tensor, plane: int, t_kind: int, p_kind: int) -> None:
    """Writes the curve of x into y.

    Args:
        x: contiguous groups of five planes [t | p0 | p1 | p2 | p3].
        y: contiguous, a plane for each group.
        plane: values in a plane.
        t_kind: the index of the activation of t in `bezier.ACTIVATIONS`.
        p_kind: that of the control points, likewise.
    """
    _call("bezier_forward", (x, y), plane, t_kind, p_kind)


def backward(x: Tensor, grad: Tensor, grad_x: Tensor, plane: int, t_kind: int, p_kind: int) -> None:
    """Writes the gradient with respect to x into grad_x; `grad` is as y of `forward`, the rest as there."""
    _call("bezier_backward", (x, grad, grad_x), plane, t_kind, p_kind)
