"""The folders of runs, sweeps and their jobs, named before any work starts; resolvers of configs/train.yaml."""

import hashlib
import re
from pathlib import Path

from fluxflow.claims import claim_new
from fluxflow.errors import ConfigError
from fluxflow.runs import LAST, find_checkpoint, newest_run

DATED = re.compile(r"\d{4}-\d{2}-\d{2}_\d{2}-\d{2}-\d{2}")  # the name of a run to which the user gave none
LONGEST_NAME = 200  # bytes; file systems take 255


def run_folder(stage_dir: str, name: str, resume: str | None) -> str:
    """Return the folder of a run: the one whose checkpoint it continues, or else `<stage_dir>/<name>`.

    Args:
        stage_dir: where the runs of this stage are.
        name: of a new run; a date and a time unless the user gave another. The folder of a dated one is made here, so
            that a run which starts in the same second takes another.
        resume: None, a run folder or a checkpoint in one, or "auto": the run called `name`, or, where that is a date,
            the one that saved last.

    Raises:
        CheckpointError: `resume` is a path that holds no checkpoint.
        StorageError: the folder cannot be made.
    """
    new = Path(stage_dir) / str(name)
    checkpoint = find_checkpoint(resume, new)
    if checkpoint is not None and checkpoint.parent.name == LAST.parent.name:
        return str(checkpoint.parents[1])
    if not DATED.fullmatch(new.name):
        return str(new)
    newest = newest_run(new.parent.glob("*")) if resume == "auto" else None
    return str(newest or claim_new(new))


def sweep_folder(sweeps_dir: str, name: str, resume: str | None) -> str:
    """Return the folder of a sweep: `<sweeps_dir>/<name>`, or with resume=auto and no name= the one that saved last.

    Args:
        sweeps_dir: where sweeps are.
        name, resume: as of `run_folder`.

    Raises:
        StorageError: the folder cannot be made.
    """
    new = Path(sweeps_dir) / str(name)
    if not DATED.fullmatch(new.name):
        return str(new)
    newest = newest_run(new.parent.glob("*/*")) if resume == "auto" else None
    return str(newest.parent if newest else claim_new(new))


def run_name(name: str) -> str:
    """Return the name of a run if it is that of one folder.

    Raises:
        ConfigError: it is empty, a path, or too long for a file system.
    """
    text = str(name)
    if name is None or not text.strip() or text in (".", "..") or set(text) & set("/\\\0"):
        raise ConfigError(f"name={'null' if name is None else repr(text)} names no folder: give letters or digits, "
                          "or leave name= out for date and time.")  # fmt: skip
    if len(text.encode()) > LONGEST_NAME:
        raise ConfigError(f"name= has {len(text.encode())} bytes: {LONGEST_NAME} are the most.")
    return text


def output_folder(path: str) -> str:
    """Return the folder of all runs; "" would be the root of the file system. Raises ConfigError."""
    if path is None or not str(path).strip():
        raise ConfigError("output_dir= names no folder: give a path, or . for this folder.")
    return str(path)


def job_folder(overrides: str) -> str:
    """Return the folder of a sweep's job: its overrides, without slashes and short enough for a file system."""
    name = overrides.replace("/", "_")
    if len(name.encode()) <= LONGEST_NAME:
        return name
    start = name.encode()[:LONGEST_NAME].decode(errors="ignore")
    return f"{start}…{hashlib.sha256(name.encode()).hexdigest()[:8]}"
