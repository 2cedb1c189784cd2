import os
import subprocess
import sys

import pytest

# Page faults of taking 64 MiB again that were freed before. malloc has to go round a few times until the places that
# it finds are the same. A page has 4 KiB, or at most 64 on some processors.
AGAIN = """
import resource, torch
from fluxflow.kernels.heap import keep_freed_memory
keep_freed_memory(torch.device("{device}"))
for _ in range(30):
    before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    torch.empty(1 << 24).fill_(1.0)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
"""
linux = pytest.mark.skipif(sys.platform != "linux", reason="malloc is another")


def printed(code: str, settings: dict[str, str]) -> list[int]:
    """The numbers that a process prints, whose environment says of malloc and the kernels what the settings say."""
    ours = ("MALLOC_", "GLIBC_TUNABLES", "FLUXFLOW_KERNELS")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(ours)} | settings
    found = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    return [int(number) for number in found.stdout.split()]


def faults(device: str = "cpu", **settings: str) -> int:
    return printed(AGAIN.format(device=device), settings)[0]


@linux
def test_freed_memory_is_taken_again():
    assert faults() < 100


@linux
@pytest.mark.parametrize(
    ("device", "settings"),
    [("cuda", {}), ("cpu", {"MALLOC_TRIM_THRESHOLD_": "65536"}), ("cpu", {"FLUXFLOW_KERNELS": "reference"})],
)
def test_another_device_the_environment_and_the_switch_leave_malloc_alone(device, settings):
    assert faults(device, **settings) > 500
