"""`python -m fluxflow.evaluate RUN…`: how good trained models are, as a table and as evaluation.json beside each.

    python -m fluxflow.evaluate outputs/vae/<run> outputs/flow/<run>

A VAE is shown the held-out images of its run, and a flow draws their captions. docs/evaluation.md explains the figures.
"""

import argparse
import math
import shlex
import sys
from typing import Any

from fluxflow import signals
from fluxflow.errors import ConfigError, FluxFlowError
from fluxflow.runs import check_model

LEAST = {"count": 2, "training": 20, "prompts": 1, "seeds": 1, "steps": 1}


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fluxflow.evaluate", description=(__doc__ or "").split(":", 1)[1])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="a run or model folder, or a published checkpoint")
    parser.add_argument("--data", help="demo, shapes, a folder of images or shards, instead of the run's images")
    parser.add_argument("--only", nargs="+", choices=["reconstruction", "velocity", "samples", "captions"], default=[])
    parser.add_argument("--count", type=int, default=512, help="held-out images at most (%(default)s)")
    parser.add_argument("--training", type=int, default=2000, help="training images to compare with (%(default)s)")
    parser.add_argument("--prompts", type=int, default=64, help="held-out captions that are drawn (%(default)s)")
    parser.add_argument("--seeds", type=int, default=4, help="samples of each caption (%(default)s)")
    parser.add_argument("--steps", type=int, default=20, help="of the sampler (%(default)s)")
    parser.add_argument("--guidance", type=float, default=5.0, help="scale of the guidance (%(default)s)")
    parser.add_argument("--features", default="efficientnet-lite0",
                        help="or inception:FILE, dinov2:FOLDER, clip:FOLDER (%(default)s)")  # fmt: skip
    parser.add_argument("--device", default="auto", help="auto, cpu, cuda, mps (%(default)s)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse_arguments(arguments)
    given = sys.argv[1:] if arguments is None else arguments
    try:
        with signals.unwinding():
            _run(options, shlex.join(["python", "-m", "fluxflow.evaluate", *given]))
    except FluxFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _run(options: argparse.Namespace, command: str) -> None:
    for name, least in LEAST.items():
        if getattr(options, name) < least:
            raise ConfigError(f"--{name} is {getattr(options, name)}: it must be {least} or more.")
    for run in options.runs:
        check_model(run)  # refused before torch is imported, which takes seconds
    from fluxflow.commands.evaluation import EvaluationConfig, beside, evaluate, write
    from fluxflow.commands.sampling import device_of
    from fluxflow.kernels.heap import keep_freed_memory
    from fluxflow.metrics.features import make_features

    device = device_of(options.device)
    keep_freed_memory(device)
    features = make_features(options.features).to(device)
    settings = {name: getattr(options, name) for name in EvaluationConfig.__dataclass_fields__}
    results = {}
    for run in options.runs:
        result = {"command": command} | evaluate(run, EvaluationConfig(**settings), features, device)
        write(result, beside(run) / "evaluation.json")
        results[run] = result
        print(f"Written: {beside(run) / 'evaluation.json'}")
    print("\n".join(table(results)))


def table(results: dict[str, dict[str, Any]]) -> list[str]:
    """A Markdown table: a row a measure, a column a run; values with the bounds of 95 % confidence."""
    rows: dict[tuple[str, str], dict[str, str]] = {}
    for run, result in results.items():
        for measure in result["measures"]:
            unit = f" {measure['unit']}" if measure["unit"] else ""
            key = (measure["group"], f"{measure['title']}{_arrow(measure['better'])}")
            rows.setdefault(key, {})[run] = f"{interval(measure)}{unit}"
    lines = [f"| | | {' | '.join(results)} |", f"|---|---|{'---|' * len(results)}"]
    for (group, title), values in rows.items():
        lines.append(f"| {group} | {title} | {' | '.join(values.get(run, '') for run in results)} |")
    return lines


def interval(measure: dict[str, Any]) -> str:
    """A value with its bounds, to the digits that the bounds leave."""
    value, low, high = measure["value"], measure["low"], measure["high"]
    if low is None or high is None:
        return f"{value:.4g}"
    width = high - low
    digits = max(0, min(6, 1 - math.floor(math.log10(width)))) if width > 0 else 3
    return f"{value:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def _arrow(better: str) -> str:
    return {"higher": " ↑", "lower": " ↓"}.get(better, "")
