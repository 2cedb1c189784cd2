"""Prints what the kernels are worth: python benchmarks/step.py [--pairs 7] [--threads 2]

Each row alternates the naive form and ours in one process and gives the median ratio of the pairs, with its range.
The naive forms: PyTorch's own gradient of a strided convolution, and a Bézier activation left to autograd.
"""

import argparse
import os
import platform
import statistics
import time
from collections.abc import Callable

import torch
from torch import Tensor

from fluxflow import kernels
from fluxflow.kernels import conv
from fluxflow.losses import kl_divergence, reconstruction_loss
from fluxflow.models import FluxCompressor, FluxExpander, activations


def vae_step(dim: int, downscales: int, batch: int, side: int) -> Callable[[], None]:
    """Forward and backward of the reconstruction and KL losses of a VAE."""
    compressor, expander = FluxCompressor(d_model=dim, downscales=downscales), FluxExpander(dim, downscales)
    image = torch.rand(batch, 3, side, side) * 2 - 1

    def step() -> None:
        packed, mu, logvar = compressor(image, training=True)
        loss = reconstruction_loss(expander(packed), image) + 1e-4 * kl_divergence(mu, logvar)
        loss.backward()

    return step


def upsampling(channels: int, batch: int, side: int) -> Callable[[], None]:
    """Forward and backward of one ConvTranspose k16 s2."""
    layer = conv.ConvTranspose2dStride2(channels, channels * 5, 16, padding=7)
    x = torch.randn(batch, channels, side, side, requires_grad=True)
    return lambda: layer(x).sum().backward()


def saved_bytes(function: Callable[[Tensor], Tensor], x: Tensor) -> int:
    """What autograd keeps for the backward of `function`, shared storage counted once."""
    kept: dict[int, int] = {}

    def keep(tensor: Tensor) -> Tensor:
        storage = tensor.untyped_storage()
        kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        result = function(x)
    del result
    return sum(kept.values())


def seconds(step: Callable[[], None]) -> float:
    start = time.perf_counter()
    step()
    return time.perf_counter() - start


def compare(name: str, step: Callable[[], None], pairs: int) -> None:
    """Times `step` with the kernels and without, in turn, and prints a row."""
    ours, plain = [], []
    for _ in range(pairs + 1):  # the first pair warms up
        ours.append(seconds(step))
        with kernels.fast(False):
            plain.append(seconds(step))
    ratios = [b / a for a, b in zip(ours[1:], plain[1:], strict=True)]
    mine, other = statistics.median(ours[1:]), statistics.median(plain[1:])
    row = f"{statistics.median(ratios):5.2f}×  {min(ratios):5.2f}–{max(ratios):.2f}"
    print(f"{name:44} {1000 * other:9.1f} ms {1000 * mine:9.1f} ms  {row}", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, default=7)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    arguments = parser.parse_args()
    torch.set_num_threads(arguments.threads)
    load = os.getloadavg()[0]
    print(f"{platform.processor() or platform.machine()}, {arguments.threads} threads, torch {torch.__version__}")
    print(
        f"{torch.backends.cpu.get_cpu_capability()}, OMP_WAIT_POLICY={os.environ.get('OMP_WAIT_POLICY')}, load {load}"
    )
    print(f"{'':44} {'naive':>12} {'ours':>12}   ratio  range of {arguments.pairs} pairs")
    compare("VAE step, dim 16, 3 stages, 64 px, batch 4", vae_step(16, 3, 4, 64), arguments.pairs)
    compare("VAE step, dim 32, 4 stages, 64 px, batch 4", vae_step(32, 4, 4, 64), arguments.pairs)
    compare("ConvTranspose k16 s2, 32 → 160, 32², batch 4", upsampling(32, 4, 32), arguments.pairs)
    x = torch.randn(4, 160, 64, 64, requires_grad=True)
    curve = activations.BezierActivation("sigmoid", "silu")
    compare("Bézier forward + backward, [4, 160, 64, 64]", lambda: curve(x).sum().backward(), arguments.pairs)
    with kernels.fast(False):
        plain = saved_bytes(curve, x)
    print(f"{'its memory for the backward':44} {plain / 1e6:9.1f} MB {saved_bytes(curve, x) / 1e6:9.1f} MB")


if __name__ == "__main__":
    main()
