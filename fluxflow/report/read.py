"""Reading a run folder: whatever is there of it, of a run that is under way, was killed, or is of an older version."""

import csv
import io
import json
import math
import re
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from fluxflow.claims import is_held
from fluxflow.errors import CheckpointError
from fluxflow.json_lines import read_lines
from fluxflow.report.run import Line, Preview, Rejections, Run, Series
from fluxflow.runs import BEST, LAST, enclosing

TRACES = ("config.yaml", "metrics.csv", "run.log", "history.jsonl")  # of a run, the first things that it writes
PREVIEW = re.compile(r"step_(\d+)\.(?:png|webp|jpg)")
GRIDS = ("grid", "reconstructions")  # that sample.py writes
LOG_LINE = re.compile(r"(\d{4}-\d\d-\d\d \d\d:\d\d:\d\d),\d+ ([A-Z]+) (.*)")


def read_run(path: str | Path) -> Run:
    """Read the folder of a run, or the one that a checkpoint or model folder in it belongs to.

    Raises:
        CheckpointError: there is no run.
    """
    folder = Path(path)
    if not any((folder / name).is_file() for name in TRACES) and (whole := enclosing(folder)):
        folder = whole[1]
    known = [*TRACES, str(LAST), str(BEST)]
    if not any((folder / name).is_file() for name in known):
        what = (
            f"{path} holds no run: none of {', '.join(TRACES)} is there." if folder.exists() else f"There is no {path}."
        )
        raise CheckpointError(f"{what} Give the folder of a run, outputs/<stage>/<run>.")
    return Run(
        folder=folder,
        config=_config(folder / "config.yaml"),
        metrics=read_metrics(folder / "metrics.csv"),
        history=_history(folder / "history.jsonl"),
        log=_log(folder / "run.log"),
        curves=_curves(folder / "curves.jsonl"),
        rejected=_rejected(folder / "rejected.jsonl"),
        previews=_previews(folder / "previews"),
        samples=_samples(folder / "samples"),
        evaluation=_evaluation(folder / "evaluation.json"),
        saved=tuple(str(name) for name in (LAST, BEST, Path("model")) if (folder / name).exists()),
        held=is_held(folder),
    )


def read_metrics(path: Path) -> dict[str, Series]:
    """The columns of metrics.csv, without rows that are torn, cells that are no finite number, and empty columns."""
    text = _text(path)
    whole = text[: text.rfind("\n") + 1]
    rows = csv.reader(io.StringIO(whole))
    header = next(rows, [])
    if "step" not in header:
        return {}
    place = header.index("step")
    columns: dict[str, tuple[list[int], list[float]]] = {name: ([], []) for name in header if name != "step"}
    for row in rows:
        step = _finite(row[place]) if len(row) == len(header) else None
        if step is None:
            continue
        for name, cell in zip(header, row):
            if name != "step" and (value := _finite(cell)) is not None:
                columns[name][0].append(int(step))
                columns[name][1].append(value)
    return {
        name: Series(np.array(steps, dtype=np.int64), np.array(values))
        for name, (steps, values) in columns.items()
        if steps
    }


def _text(path: Path) -> str:
    """What a file says, "" where it cannot be read."""
    try:
        return path.read_bytes().decode("utf-8", "replace")
    except OSError:
        return ""


def _finite(text: str) -> float | None:
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _config(path: Path) -> dict[str, Any]:
    try:
        content = yaml.safe_load(_text(path))
    except (yaml.YAMLError, ValueError, RecursionError):
        return {}
    return content if isinstance(content, dict) else {}


def _history(path: Path) -> list[dict[str, Any]]:
    rows = [
        row for row in read_lines(path) if row.get("event") in ("start", "end") and isinstance(row.get("step"), int)
    ]
    return [row for row in rows if _is_time(row.get("time"))]


def _is_time(text: Any) -> bool:
    try:
        return datetime.fromisoformat(str(text)).tzinfo is not None
    except ValueError:
        return False


def _log(path: Path) -> list[Line]:
    found = map(LOG_LINE.fullmatch, _text(path).splitlines())
    return [Line(datetime.fromisoformat(match[1]), match[2], match[3].strip()) for match in found if match]


def _curves(path: Path) -> list[dict[str, Any]]:
    rows = [row for row in read_lines(path) if isinstance(row.get("step"), int)]
    return sorted(rows, key=lambda row: row["step"])


def _rejected(path: Path) -> dict[str, Rejections]:
    found: dict[str, Rejections] = {}
    for row in read_lines(path):
        reason = str(row.get("reason", "no reason"))
        before = found.get(reason, Rejections(0, f"{row.get('key')} of {row.get('source')}"))
        found[reason] = before._replace(samples=before.samples + 1)
    return dict(sorted(found.items(), key=lambda item: -item[1].samples))


def _previews(folder: Path) -> list[Preview]:
    files = folder.iterdir() if folder.is_dir() else ()
    found = [Preview(int(match[1]), file) for file in files if (match := PREVIEW.fullmatch(file.name))]
    return sorted(found)


def _samples(folder: Path) -> list[Path]:
    files = folder.iterdir() if folder.is_dir() else ()
    images = sorted(file for file in files if file.suffix.lower() in (".png", ".webp", ".jpg", ".jpeg"))
    return [file for file in images if file.stem in GRIDS] or images  # grids hold all images that lie beside them


def _evaluation(path: Path) -> dict[str, Any] | None:
    try:
        content = json.loads(_text(path))
    except (ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None
