"""Numbered pieces of work in several processes, the result of each kept in a file, so that a killed run goes on.

The output folder knows of the run that makes it: the same command goes on, another one is refused.
"""

import contextlib
import json
import multiprocessing
import signal
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path
from typing import Any

from fluxflow.claims import LOCK, claim, release
from fluxflow.data.prepare.shard_writer import GO_ON
from fluxflow.errors import DataError, StorageError
from fluxflow.files import remove_partial, replacing
from fluxflow.signals import end_with_parent, held

STATE = ".prepare"
REPORT = "report.json"
# Ctrl-C and the like reach every process, and the first one answers them. The pool itself ends others by SIGTERM.
FOR_THE_FIRST = (signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)

Work = Callable[[Any, Any], dict]  # what all pieces share, one piece → its result, which JSON can hold


def put(path: Path, content: object) -> None:
    """Write JSON that is there whole or not at all, after a power cut too."""
    put_text(path, json.dumps(content, ensure_ascii=False))


def put_text(path: Path, text: str) -> None:
    """The same for a text. Raises DataError if it cannot be written."""
    try:
        with replacing(path) as file:
            file.write(text.encode("utf-8", "backslashreplace"))
    except StorageError as error:
        raise DataError(f"{error} {GO_ON}") from error


class Workers:
    """Processes that share one object, as a context manager.

    They are spawned, not forked: nothing of this process's threads or open files is with them. A single one is this
    process itself.

    Args:
        shared: what all pieces of work need; it is sent to each process once.
        processes: how many.
    """

    def __init__(self, shared: object, processes: int) -> None:
        self._shared = shared
        self._pool: ProcessPoolExecutor | None = None
        if processes > 1:
            context = multiprocessing.get_context("spawn")
            self._pool = ProcessPoolExecutor(processes, context, _begin, (shared,))

    def __enter__(self) -> "Workers":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if self._pool is not None:
            for process in list(self._pool._processes.values()) if kind else ():
                process.kill()  # what it is at would be awaited
            self._pool.shutdown(cancel_futures=True)

    def run(self, work: Work, pieces: Mapping[str, Any], results: Path) -> Iterator[tuple[str, dict, bool]]:
        """Do what is not done yet.

        Args:
            work: a function of a module.
            pieces: by name.
            results: folder of the results that are kept.

        Yields:
            Name, result and whether it was done before, in the order in which they are there.

        Raises:
            DataError: if a process died.
        """
        results.mkdir(parents=True, exist_ok=True)
        waiting = {}
        for name, piece in pieces.items():
            path = results / f"{name}.json"
            if path.exists():
                yield name, json.loads(path.read_text("utf-8")), True
            else:
                waiting[name] = (piece, path)
        if self._pool is None:
            for name, (piece, path) in waiting.items():
                yield name, _do(work, self._shared, piece, path), False
            return
        with held(FOR_THE_FIRST):
            futures = {self._pool.submit(_do_here, work, piece, path): name for name, (piece, path) in waiting.items()}
        try:
            for future in as_completed(futures):
                yield futures[future], future.result(), False
        except BrokenProcessPool:
            raise DataError("A worker process was killed, perhaps for want of memory: run the same command again with "
                            "fewer --processes, it goes on where this one stopped.") from None  # fmt: skip


_here: object = None  # what the processes share, in each of them


def _begin(shared: object) -> None:
    global _here
    _here = shared
    end_with_parent()  # else it would wait for work for ever, or still write while the next run does


def _do_here(work: Work, piece: object, path: Path) -> dict:
    return _do(work, _here, piece, path)


def _do(work: Work, shared: object, piece: object, path: Path) -> dict:
    result = json.loads(json.dumps(work(shared, piece)))  # the same, whether it comes from here or from the file
    put(path, result)
    return result


@contextlib.contextmanager
def claimed(out: Path, plan: dict[str, Any]) -> Iterator[Path]:
    """Hold an output folder for one plan and this process; gives the folder of the state.

    Args:
        out: a folder that is new, empty, or of the same plan.
        plan: all that decides the output: "source", the source's fingerprint, and "options".

    Raises:
        DataError: if the folder holds something else, belongs to another plan, or another process is at work in it.
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
