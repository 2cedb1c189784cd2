"""Freed memory stays with the process where a step computes on CPU.

glibc gives every tensor from 32 MiB on a mapping of its own, and that back to the system when it is freed. The next
step gets its memory page by page, each cleared by the system: 350,000 times a step of stage 1 at vae_dim 128.
"""

import ctypes
import os
import platform

import torch

from fluxflow.kernels import enabled

M_TRIM_THRESHOLD, M_MMAP_MAX = -1, -4  # malloc.h
NEVER = -1
SETTINGS = ("MALLOC_", "GLIBC_TUNABLES")  # mallopt(3): what the environment asks of malloc takes precedence


def keep_freed_memory(device: torch.device) -> None:
    """Lets glibc's malloc use freed memory again for the rest of this process.

    It does nothing where malloc is another, or has settings in the environment.

    Args:
        device: of the computation; nothing is done for other devices than the CPU.
    """
    chosen = any(name.startswith(SETTINGS) for name in os.environ)
    if device.type == "cpu" and not chosen and enabled() and platform.libc_ver()[0] == "glibc":
        libc = ctypes.CDLL(None)
        libc.mallopt(M_MMAP_MAX, 0)
        libc.mallopt(M_TRIM_THRESHOLD, NEVER)
