"""How fast a device can multiply: what the throughput of a run is a share of."""

import re
import time

import torch

# TFLOP/s of dense matrix products in bfloat16 and float16, in TF32, and in float32, from NVIDIA's data sheets. A name
# is looked up by its words: the first row of which all are there counts.
GPUS: tuple[tuple[str, float, float, float], ...] = (
    ("H200", 989.4, 494.7, 66.9),
    ("H100 PCIe", 756.0, 378.0, 51.2),
    ("H100 NVL", 835.0, 417.5, 60.0),
    ("H100", 989.4, 494.7, 66.9),
    ("A100", 312.0, 156.0, 19.5),
    ("L40S", 362.0, 183.0, 91.6),
    ("L4", 121.0, 60.0, 30.3),
    ("A10", 125.0, 62.5, 31.2),
    ("RTX 4090", 165.2, 82.6, 82.6),
    ("RTX 3090", 71.0, 35.6, 35.6),
)


def gpu_peak(name: str, half: bool, tf32: bool) -> float | None:
    """Operations a second of a GPU, or None where it is not in the table.

    Args:
        name: what CUDA calls it.
        half: products run in bfloat16 or float16.
        tf32: those of float32 may run in TF32.
    """
    words = set(re.split(r"[\s-]+", name))
    for known, *speeds in GPUS:
        if set(known.split()) <= words:
            return 1e12 * speeds[0 if half else 1 if tf32 else 2]
    return None


def cpu_peak(dtype: torch.dtype, side: int = 512, repeats: int = 8) -> float:
    """Operations a second of a square matrix product on this machine's threads now, the best of a few."""
    a, b = torch.ones(side, side, dtype=dtype), torch.ones(side, side, dtype=dtype)
    fastest = float("inf")
    for _ in range(repeats + 1):
        start = time.perf_counter()
        torch.mm(a, b)
        fastest = min(fastest, time.perf_counter() - start)
    return 2 * side**3 / fastest


def device_peak(device: torch.device, half: bool) -> float | None:
    """Operations a second of a device under the settings of this process; None where it is not known."""
    if device.type == "cuda":
        tf32 = torch.get_float32_matmul_precision() != "highest"
        return gpu_peak(torch.cuda.get_device_name(device), half, tf32)
    return cpu_peak(torch.bfloat16 if half else torch.float32) if device.type == "cpu" else None
