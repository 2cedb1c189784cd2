"""Freed memory stays with the process where a step computes on CPU, and lies in large pages.

glibc gives every tensor from 32 MiB on a mapping of its own, and that back to the system when it is freed. The next
step gets its memory page by page, each cleared by the system: 350,000 times a step of stage 1 at vae_dim 128.

A page of Linux has 4 KiB, and the processor remembers where some thousands of them are. A step goes through hundreds of
MB and has most of its pages looked up; of pages of 2 MiB, which Linux gives where it is asked for them, there are few.
"""

import ctypes
import functools
import mmap
import os
import platform
from pathlib import Path

import torch

from fluxflow.kernels import enabled

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = -1
OVERCOMMIT, STRICT = Path("/proc/sys/vm/overcommit_memory"), "2"  # proc(5)
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")  # mallopt(3): what the environment asks of malloc goes first


def keep_freed_memory(device: torch.device) -> None:
    """Lets glibc's malloc use freed memory again for the rest of this process.

    It does nothing where malloc is another, or has settings in the environment.

    Args:
        device: of the computation; nothing is done for other devices than the CPU.
    """
    chosen = any(name.startswith(SETTINGS) for name in os.environ)
    if device.type != "cpu" or chosen or not enabled() or platform.libc_ver()[0] != "glibc":
        return
    libc = ctypes.CDLL(None)
    libc.mallopt(M_MMAP_MAX, 0)
    libc.mallopt(M_TRIM_THRESHOLD, NEVER)
    _widen()


@functools.cache
def _widen() -> None:
    """Let the heap reach over half as many addresses as the machine has memory, and ask for large pages there.

    Addresses are not memory: that comes when they are first written to. Where the system refuses, counts addresses
    as memory, or limits them (ulimit -v), all stays as it is.
    """
    import resource  # not on Windows

    limit, _ = resource.getrlimit(resource.RLIMIT_AS)
    if limit != resource.RLIM_INFINITY or (OVERCOMMIT.exists() and OVERCOMMIT.read_text().strip() == STRICT):
        return
    libc = ctypes.CDLL(None)
    libc.malloc.restype = ctypes.c_void_p
    half = os.sysconf("SC_PHYS_PAGES") * mmap.PAGESIZE // 2
    start = libc.malloc(ctypes.c_size_t(half))
    if start:
        page = start + -start % mmap.PAGESIZE
        libc.madvise(ctypes.c_void_p(page), ctypes.c_size_t(half - mmap.PAGESIZE), mmap.MADV_HUGEPAGE)
        libc.free(ctypes.c_void_p(start))
