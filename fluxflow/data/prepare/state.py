"""What an output folder knows of the run that makes it: the same command goes on, another one is refused."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from ...claims import LOCK, claim, release
from ...errors import DataError
from ...files import remove_partial
from .work import put

STATE = ".prepare"
REPORT = "report.json"


@contextlib.contextmanager
def claimed(out: Path, plan: dict[str, Any]) -> Iterator[Path]:
    """Hold an output folder for one plan and this process; gives the folder of the state.

    Args:
        out: A folder that is new, empty, or of the same plan.
        plan: All that decides the output: "source", the source's fingerprint, and "options".

    Raises:
        DataError: If the folder holds something else, belongs to another plan, or another process is at work in it.
    """
    if out.exists() and not out.is_dir():
        raise DataError(f"{out} is a file: name a new folder.")
    if not claim(out):
        raise DataError(f"Another process is preparing {out}: wait for it, or stop it first.")
    try:
        _refuse_others(out, plan)
        remove_partial(out)
        put(out / STATE / "plan.json", plan)
        yield out / STATE
    finally:
        release(out)


def _refuse_others(out: Path, plan: dict[str, Any]) -> None:
    found = _plan(out)
    if found is None and any(path.name not in (STATE, LOCK) for path in out.iterdir()):
        raise DataError(f"{out} is not empty, and nothing that prepare began: name a new folder, or remove it first.")
    if found is not None and found != plan:
        raise DataError(f"{out} was begun otherwise: {_differences(found, plan)}. Give the same command to go on, or "
                        "name a new folder.")  # fmt: skip


def _plan(out: Path) -> dict[str, Any] | None:
    """The plan under which a folder was finished or begun, if it was."""
    for path, name in ((out / REPORT, "plan"), (out / STATE / "plan.json", None)):
        if path.is_file():
            try:
                content = json.loads(path.read_text("utf-8"))
                return content[name] if name else content
            except (ValueError, KeyError, TypeError):
                continue  # not ours
    return None


def _differences(found: dict[str, Any], plan: dict[str, Any]) -> str:
    theirs, ours = found.get("options", {}), plan["options"]
    said = [f"--{name.replace('_', '-')} was {theirs.get(name)} and is {ours.get(name)}"
            for name in sorted(theirs | ours) if theirs.get(name) != ours.get(name)]  # fmt: skip
    if found.get("source") != plan["source"]:
        said.append("the pictures or captions of IN were others")
    return ", ".join(said) or "by another version"
