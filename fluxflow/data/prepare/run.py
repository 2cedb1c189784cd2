"""From an opened source to shards, step by step."""

import json
import shutil
from collections import Counter
from dataclasses import asdict
from pathlib import Path
from typing import Any

from fluxflow.data.prepare.plan import Plan, make_plan
from fluxflow.data.prepare.report import SPLITS, make_index, make_report, render
from fluxflow.data.prepare.scan import Job, Options, chunks, scan
from fluxflow.data.prepare.shard_writer import write_shard
from fluxflow.data.prepare.work import REPORT, Workers, claimed, put, put_text
from fluxflow.data.progress import Progress
from fluxflow.data.sources.folder import FolderReader
from fluxflow.data.sources.records import Reader
from fluxflow.errors import DataError

VERSION = 2  # of what the same source and options give


def prepare(reader: Reader, out: Path, options: Options, processes: int = 1) -> str:
    """Write a source as shards into out/train and out/val, with their index.json, rejected.jsonl and report.json.

    Args:
        reader: opened source.
        out: folder that is new, empty, or that of a run with the same source and options, which then goes on.
        options: what decides the output.
        processes: that look and write at a time; the output does not depend on them.

    Returns:
        The report, for people.

    Raises:
        DataError: if `out` belongs to something else or cannot be written, or no sample is usable.
    """
    plan_id = {"version": VERSION, "source": reader.fingerprint(), "options": asdict(options)}
    with claimed(out, plan_id) as state:
        if not (out / REPORT).is_file():
            with Workers(Job(reader, options, out), processes) as workers:
                scanned = _scan(workers, reader, state / "scan")
                plan = make_plan(scanned, options)
                results = _write(workers, plan, out, state / "shards")
            rejected = plan.rejected + _rows_without_picture(reader)
            rejected += [sample for result in results.values() for sample in result["rejected"]]
            _finish(out, options, results, rejected, {**_noticed(reader, scanned), "plan": plan_id})
        shutil.rmtree(state)
    return render(json.loads((out / REPORT).read_text("utf-8")), out)


def _scan(workers: Workers, reader: Reader, state: Path) -> list[tuple[int, dict]]:
    work, found = chunks(reader), {}
    counted = len(reader.open_shard(0).keys) if reader.shard_count() == 1 else len(work)
    with Progress("looking", "samples" if reader.shard_count() == 1 else "shards", counted) as progress:
        for name, result, earlier in workers.run(scan, work, state):
            found[name] = result
            progress.advance(len(result["keys"]) if reader.shard_count() == 1 else 1, earlier)
    return [(work[name][0], found[name]) for name in sorted(found)]


def _write(workers: Workers, plan: Plan, out: Path, state: Path) -> dict[str, dict]:
    """The result of each shard, by its path below the output."""
    paths = {path.replace("/", "-").removesuffix(".tar"): path for path in plan.shards}
    for name, path in paths.items():
        _forget_if_gone(state / f"{name}.json", out / path)
    results = {}
    with Progress("writing", "samples", sum(map(len, plan.shards.values()))) as progress:
        work = {name: (path, plan.shards[path]) for name, path in paths.items()}
        for name, result, earlier in workers.run(write_shard, work, state):
            results[paths[name]] = result
            progress.advance(len(plan.shards[paths[name]]), earlier)
    return dict(sorted(results.items()))


def _forget_if_gone(result: Path, tar: Path) -> None:
    """Make a shard again whose tar does not have the size that was noted."""
    if result.exists():
        entry = json.loads(result.read_text("utf-8"))["entry"]
        if entry and not (tar.is_file() and tar.stat().st_size == entry["bytes"]):
            result.unlink()


def _rows_without_picture(reader: Reader) -> list[dict[str, str]]:
    rows = reader.rows_without_picture if isinstance(reader, FolderReader) else []
    return [{"source": row, "key": "", "reason": "caption of a picture that is not there"} for row in rows]


def _noticed(reader: Reader, scanned: list[tuple[int, dict]]) -> dict[str, Any]:
    """What the report says of the source: files that are of no use, where captions come from, files out of order."""
    if isinstance(reader, FolderReader):
        passed, captions = reader.other_files, reader.caption_files
    else:
        passed, captions = sum((Counter(found.get("passed_over", {})) for _, found in scanned), Counter()), {}
    scattered = sum(found.get("scattered", 0) for _, found in scanned)
    return {"passed_over": dict(sorted(passed.items())), "caption_files": dict(captions), "scattered": scattered}


def _finish(
    out: Path, options: Options, results: dict[str, dict], rejected: list[dict[str, str]], noticed: dict[str, Any]
) -> None:
    """Write what describes the shards; the report last, since it says that all is done."""
    rejected = sorted(rejected, key=lambda sample: (sample["source"], sample["key"]))
    put_text(out / "rejected.jsonl", "".join(json.dumps(sample, ensure_ascii=False) + "\n" for sample in rejected))
    if not any(result["entry"] for result in results.values()):
        first = ", ".join(f"{sample['source']} ({sample['reason']})" for sample in rejected[:3])
        raise DataError(
            f"None of the {len(rejected)} samples is usable: {first} …; {out / 'rejected.jsonl'} names all."
        )
    for split in SPLITS:
        index = make_index(results, split)
        if index["samples"]:
            put(out / split / "index.json", index)
    put(out / REPORT, {"version": VERSION, **make_report(results, rejected, options), **noticed})
