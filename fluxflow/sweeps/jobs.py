"""Reading the jobs of a sweep, or any folder of runs: in what they differ, how good they are, what they cost."""

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.report.page import PLACES, flatten
from fluxflow.report.read import TRACES, read_run
from fluxflow.report.run import Run
from fluxflow.sweeps.ranking import Better, Job

DEFAULTS = {"vae": "val/psnr", "flow": "val/loss"}  # stage → the measure by which models are ranked
LOWER = ("loss", "l1", "kl")  # ends of the columns of metrics.csv of which less is better
# The options that a user chose come first: what follows from them, key by key, says nothing more.
FIRST = ("model", "data", "stage")
# Keys that say how often something is saved or shown, not what is trained.
BESIDE = ("trainer", "callbacks", "log_every", "val_every", "save_every", "preview_every", *PLACES)
COSTS = {"parameters": "trained parameters", "step": "ms a step", "flops": "GFLOPs a step", "memory": "peak memory, GB"}


def find_runs(folders: Sequence[str | Path]) -> list[Run]:
    """The runs that are given, and those in the folders that are given.

    Raises:
        CheckpointError: there is none.
    """
    found: dict[Path, None] = {}
    for folder in map(Path, folders):
        if any((folder / name).is_file() for name in TRACES):
            found[folder] = None
        inside = {file.parent for name in TRACES for depth in ("*", "*/*") for file in folder.glob(f"{depth}/{name}")}
        found |= dict.fromkeys(sorted(inside))
    if not found:
        raise CheckpointError(f"{', '.join(map(str, folders))} holds no run: give the folder of a sweep, or runs.")
    return [read_run(folder) for folder in found]


def read_jobs(runs: Sequence[Run], measure: str | None = None) -> tuple[list[Job], str, Better]:
    """The jobs of a sweep.

    Args:
        runs: of one stage.
        measure: a column of metrics.csv, such as "val/psnr", or "<group>/<name>" of evaluation.json, such as
            "samples/kid". None: that of `DEFAULTS`.

    Returns:
        The jobs, the measure, and whether more of it is better.

    Raises:
        ConfigError: runs of both stages, or a measure that none of them has.
    """
    stages = {run.stage for run in runs if run.stage}
    if len(stages) != 1:
        raise ConfigError(f"The runs are of {' and '.join(sorted(stages)) or 'no known stage'}: compare one stage.")
    measure = measure or DEFAULTS[stages.pop()]
    options = differing_options(runs)
    jobs = [_job(run, dict(chosen), measure) for run, chosen in zip(runs, options)]
    if all(job.value is None for job in jobs):
        known = sorted({name for run in runs for name in (*run.metrics, *_evaluated(run))})
        near = ", ".join(name for name in known if not name.startswith(("train/", "speed/"))) or "none yet"
        raise ConfigError(f"No finished run has {measure}. The measures of these runs: {near}.")
    return jobs, measure, _better(runs, measure)


def differing_options(runs: Sequence[Run]) -> list[dict[str, str]]:
    """In which options runs differ, the seed aside: one key for all that always change together."""
    flat = []
    for run in runs:
        own = str(run.config.get("run_dir", run.folder))
        flat.append({key: str(value) for key, value in flatten(run.config) if own not in str(value)})
    keys = [key for key in dict.fromkeys(key for config in flat for key in config)
            if key.partition(".")[0] not in BESIDE and not key.endswith("seed")]  # fmt: skip
    keys.sort(key=lambda key: FIRST.index(key.partition(".")[0]) + 1 if key.partition(".")[0] in FIRST else 0)
    chosen: dict[tuple[str, ...], str] = {}
    for key in keys:
        values = tuple(config.get(key, "–") for config in flat)
        if len(set(values)) > 1:
            chosen.setdefault(_pattern(values), key)
    return [{key: config.get(key, "–") for key in chosen.values()} for config in flat]


def _pattern(values: Sequence[str]) -> tuple[str, ...]:
    """Which runs have the same value, whatever it is: `model.vae_dim` and what is computed from it have one pattern."""
    first = {value: str(index) for index, value in reversed(list(enumerate(values)))}
    return tuple(first[value] for value in values)


def _job(run: Run, options: dict[str, str], measure: str) -> Job:
    value, problem = _value(run, measure)
    budget = run.step * run.number("data.batch_size", math.nan) * run.number("accumulate", 1)
    return Job(run.name, options, int(run.number("seed", 0)), value, _costs(run), budget, problem)


def _value(run: Run, measure: str) -> tuple[float | None, str]:
    """The last value of a finished run, or why there is none."""
    if run.state != "finished":
        return None, run.error or f"it is {run.state}, at step {run.step:,} of {run.steps:,}."
    if measure in run.metrics:
        return float(run.metrics[measure].values[-1]), ""
    if measure in (found := _evaluated(run)):
        return float(found[measure]["value"]), ""
    return None, f"it has no {measure}."


def _evaluated(run: Run) -> dict[str, Mapping[str, Any]]:
    """The measures of evaluation.json by "<group>/<name>"."""
    rows = (run.evaluation or {}).get("measures", [])
    return {f"{row['group']}/{row['name']}": row for row in rows if isinstance(row.get("value"), (int, float))}


def _better(runs: Sequence[Run], measure: str) -> Better:
    for run in runs:
        if row := _evaluated(run).get(measure):
            return "lower" if row.get("better") == "lower" else "higher"
    return "lower" if measure.endswith(LOWER) else "higher"


def _costs(run: Run) -> dict[str, float]:
    """What a run cost, as far as it is known: of speeds the median over the run."""
    costs: dict[str, float] = {}
    counts = run.start.get("parameters")
    if isinstance(counts, Mapping) and counts:
        costs["parameters"] = float(sum(trained for _, trained in counts.values()))
    images = run.number("data.batch_size", math.nan) * run.number("accumulate", 1)
    if (speed := run.metrics.get("speed/images_per_second")) is not None and not math.isnan(images):
        costs["step"] = 1000 * images / _median(speed.values.tolist())
    if (rate := run.metrics.get("speed/tflops")) is not None and "step" in costs:
        costs["flops"] = _median(rate.values.tolist()) * costs["step"]  # 10¹² a second × 10⁻³ s = 10⁹
    if (memory := run.metrics.get("speed/peak_memory_gb")) is not None:
        costs["memory"] = float(memory.values.max())
    return costs


def _median(values: list[float]) -> float:
    return sorted(values)[len(values) // 2]
