"""How the threads of OpenMP wait for each other, chosen before torch is loaded.

GNU's OpenMP, on which torch runs on Linux, lets a thread that waits for the others spin for some milliseconds. Beside
another busy process the thread that it waits for may not be running at all, and the spinning one keeps its core busy: a
step takes a hundred times as long. A short spin bridges the gaps between the operations of a step, and then sleeps.
benchmarks/busy.py measures both.
"""

import os
from collections.abc import MutableMapping

SPINS = "2000"  # some 50 microseconds
SETTINGS = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def wait_briefly(environment: MutableMapping[str, str] = os.environ) -> None:
    """Let waiting threads spin briefly, unless `environment` says already how they wait.

    It acts on an OpenMP that is loaded later, in this process or in those that it starts. Results do not depend on it.
    """
    if not any(name in environment for name in SETTINGS):
        environment["GOMP_SPINCOUNT"] = SPINS
