"""Libraries of the C sources in this folder, compiled at their first use with the constants that a caller asks for.

They are kept in a folder of the user's, under a name that changes with the source, the compiler, its options and the
processor; processes that compile one at the same time each write their own file and rename it. Without a working C
compiler everything stays in plain PyTorch, which is said once. TorchInductor would need the same compiler and a warm-up
of many seconds in each process for slower kernels.
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

from fluxflow.kernels import enabled

log = logging.getLogger(__name__)

FOLDER = Path(__file__).parent
# NaN and infinity are kept, unlike with -ffast-math.
OPTIONS = ["-std=gnu11", "-O3", "-fPIC", "-shared", "-ffp-contract=fast", "-fno-math-errno", "-fno-trapping-math"]
# The first that the compiler accepts: some know no OpenMP or no native processor.
VARIANTS = (["-march=native", "-fopenmp"], ["-march=native", "-fopenmp-simd"], [])
failures: list[Exception] = []  # of this process to have a library; the first is told


def processor() -> str:
    """What code for the native processor depends on."""
    description = Path("/proc/cpuinfo")
    lines = description.read_text(encoding="utf-8").splitlines() if description.is_file() else []
    first = {line.split(":")[0].strip(): line for line in reversed(lines)}
    known = (first.get(name, "") for name in ("vendor_id", "model name", "flags"))
    return "\n".join([platform.machine(), platform.processor(), *known])


def compiled(folder: Path, source: str, *defined: str) -> Path:
    """The library for these constants in `folder`, compiled if it is not there.

    Raises:
        OSError: if there is no compiler, or the folder cannot be written.
        subprocess.CalledProcessError: if the compiler refuses the source with all variants of its options.
    """
    compiler, path = shlex.split(os.environ.get("CC", "cc")), FOLDER / source
    version = subprocess.run([*compiler, "--version"], capture_output=True, text=True, check=True).stdout
    options = [*OPTIONS, *(f"-D{constant}" for constant in defined)]
    texts = [file.read_text(encoding="utf-8") for file in (path, *sorted(FOLDER.glob("*.h")))]
    what = (texts, compiler, version, options, VARIANTS, processor())
    library = folder / f"{path.stem}-{hashlib.sha256(repr(what).encode()).hexdigest()[:16]}.so"
    if library.is_file():
        return library
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / library.name
        for variant in VARIANTS:
            command = [*compiler, *options, *variant, str(path), "-o", str(fresh), "-lm"]
            last = variant is VARIANTS[-1]
            if subprocess.run(command, capture_output=True, text=True, check=last).returncode == 0:
                break
        fresh.replace(library)
    return library


def cache_folder() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fluxflow" / "kernels"


@cache
def library(source: str, *defined: str) -> ctypes.CDLL | None:
    """The loaded library, or None where it cannot be had.

    Args:
        source: a file of this folder.
        defined: constants for the preprocessor, as "NAME=value" or "NAME".
    """
    try:
        return ctypes.CDLL(str(compiled(cache_folder(), source, *defined)))
    except (OSError, subprocess.CalledProcessError) as error:
        if not failures:
            reason = (getattr(error, "stderr", None) or str(error)).strip().splitlines()
            log.warning(
                "Bézier curves and large convolutions run in plain PyTorch, more slowly: %s"
                " could not be compiled (%s). A C compiler named cc or in the variable CC, and a cache folder that can"
                " be written, mend this.",
                source,
                reason[-1] if reason else type(error).__name__,
            )
        failures.append(error)
        return None


def takes(*tensors: Tensor) -> bool:
    """Whether compiled C may work on these tensors; those of subclasses may have no memory."""
    for x in tensors:
        if not x.is_cpu or type(x) not in (Tensor, torch.nn.Parameter):
            return False
    return enabled() and not torch.compiler.is_compiling()
