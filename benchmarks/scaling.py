"""How the cost of our steps grows: with the resolution and the width of the VAE, and with the tokens of the flow."""

import argparse
import json
import math
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np

from benchmarks.pairs import Worker

FLOW = {"vae_dim": 128, "dim": 256, "layers": 4, "batch": 1}


def seconds(what: str, sizes: dict[str, Any], options: argparse.Namespace) -> float:
    """The median time of a step."""
    command = [sys.executable, "-m", "benchmarks.ours", what, json.dumps(sizes)]
    with closing(Worker(command, options.threads)) as worker:
        return statistics.median([worker.ask()[0] for _ in range(options.warm + options.pairs)][options.warm :])


def exponents(points: list[tuple[float, ...]], times: list[float]) -> list[float]:
    """The least-squares fit of time = c·Πᵢ xᵢ^eᵢ; returns the eᵢ.

    Args:
        points: the xᵢ of each time, positive.
        times: positive.
    """
    table = np.log(np.array([[*point, math.e] for point in points]))
    return np.linalg.lstsq(table, np.log(np.array(times)), rcond=None)[0][:-1].tolist()


def scaling(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """Print seconds a step over both, and the exponents."""
    sides, dims = ([16, 32], [8, 16]) if options.toy else ([64, 128, 256], [32, 64, 128])
    with tempfile.TemporaryDirectory() as folder:
        say("stage-1 step with GAN, batch 1, fp32, seconds")
        say(f"{'px':>8}" + "".join(f"{f'dim {dim}':>10}" for dim in dims))
        times: dict[tuple[float, ...], float] = {}
        for side in sides:
            for dim in dims:
                sizes = {"folder": folder, "dim": dim, "side": side, "batch": 1}
                times[side, dim] = seconds("vae", sizes, options)
            say(f"{side:8}" + "".join(f"{times[side, dim]:10.3g}" for dim in dims))
        by_side, by_dim = exponents(list(times), list(times.values()))
        say(f"seconds ∝ side^{by_side:.2f} · dim^{by_dim:.2f}")
        tokens(Path(folder), options, say)


def tokens(folder: Path, options: argparse.Namespace, say: Callable[[str], None]) -> None:
    """The same of the flow, over the tokens of a picture."""
    from benchmarks.material import prepare

    sizes = FLOW | ({"vae_dim": 8, "dim": 32, "layers": 1} if options.toy else {})
    prepare(folder, sizes["vae_dim"], 16, 4, "0.8.0", options.toy)
    counts = [4, 16] if options.toy else [64, 256, 1024]
    say("stage-2 step from latents and text features, batch 1, fp32, seconds")
    times = []
    for count in counts:
        step = sizes | {"folder": str(folder), "side": 16 * math.isqrt(count)}
        times.append(seconds("flow", step, options))
        say(f"{count:8} tokens {times[-1]:10.3g}")
    say(f"seconds ∝ tokens^{exponents([(count,) for count in counts], times)[0]:.2f}")
