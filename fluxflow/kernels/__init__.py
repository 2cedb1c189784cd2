"""Fast forms of what the networks compute, and the one switch that turns all of them off.

With the switch off everything runs as plain PyTorch: the reference that tests and benchmarks compare with. The
environment variable FLUXFLOW_KERNELS sets it for a whole process, "fast" (the default) or "reference".
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager

CHOICES = ("fast", "reference")
_chosen = os.environ.get("FLUXFLOW_KERNELS", "fast")
if _chosen not in CHOICES:
    raise ValueError(f"FLUXFLOW_KERNELS={_chosen}: choose one of {', '.join(CHOICES)}")


def enabled() -> bool:
    """Whether the fast forms are on; asked at each call, in the backward as well."""
    return _chosen == "fast"


@contextmanager
def fast(on: bool) -> Iterator[None]:
    """Turns the fast forms on or off for a while, in all threads."""
    global _chosen
    before, _chosen = _chosen, "fast" if on else "reference"
    try:
        yield
    finally:
        _chosen = before
