"""Prints one table: python -m benchmarks [--peer PEER/bin/python] [--rows vae32 flow …] [--pairs 7] [--save FILE]

Each row compares us with the published package in the environment of --peer, which docs/published.md says how to make;
without it, with the naive form of our kernels where there is one; with --before TREE, with another checkout of ours.
Both sides are processes of their own that take turns, with the same number of threads: a number is the median over the
pairs, with their range. What is timed is done twice in a turn, of which the second time counts: in training a step
follows a step, and the first of a turn follows seconds in which the threads slept and the other side filled the caches.

Times are of whole steps as a user's training takes them (benchmarks/ours.py, benchmarks/peer_steps.py). Memory is the
highest resident memory of the process during a step above that before it, with freed memory given back to the system at
once: gradients and activations, without weights, averages and the state of the optimizer, which both sides hold alike.
"""

import argparse
import json
import os
import statistics
import sys
import tempfile
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path

from benchmarks.pairs import ROOT, TIDY, Worker, compare, machine
from benchmarks.rows import PEAK, Row, Work, rows

UNITS = {"s": 1.0, "MB": 1e-6, "inputs": 1.0}
HERE = Path(__file__).parent


def parser() -> argparse.ArgumentParser:
    made = argparse.ArgumentParser(
        "benchmarks", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    made.add_argument("--peer", help="the Python of an environment that has the published package")
    made.add_argument(
        "--before", type=Path, metavar="TREE", help="another checkout of ours, timed in place of the peer"
    )
    made.add_argument("--rows", nargs="+", default=list(rows()), choices=list(rows()), metavar="ROW",
                      help=f"of {', '.join(rows())}")  # fmt: skip
    made.add_argument("--pairs", type=int, default=7)
    made.add_argument("--warm", type=int, default=2, help="pairs before those that count")
    made.add_argument("--threads", type=int, default=os.cpu_count() or 1)
    made.add_argument("--files", type=Path, help="where the pictures and the cache are kept for the next time")
    made.add_argument("--save", type=Path, help="a file that gets the table, too")
    made.add_argument("--scaling", action="store_true", help="how our steps grow with resolution, width and tokens")
    made.add_argument("--toy", action="store_true", help="the smallest sizes: only whether everything runs")
    return made


def start(work: Work, python: str | None, folder: Path, row: Row, threads: int, tree: Path = ROOT) -> Worker:
    """A worker of ours, perhaps of another checkout, or in another Python one of the published package."""
    what, arguments = work
    given = arguments if what in NO_FOLDER else {"folder": str(folder), **arguments}
    program = [sys.executable, "-m", "benchmarks.ours"] if python is None else [python, str(HERE / "peer_steps.py")]
    return Worker([*program, what, json.dumps(given)], threads, TIDY if row.column == PEAK else {}, tree)


NO_FOLDER = ("bezier", "bezier_saved", "command")


def opponent(row: Row, options: argparse.Namespace) -> tuple[str, Work | None, str | None, Path]:
    """What a row is compared with: its name, work, Python (None: this one) and checkout."""
    if options.before is not None:
        return "before", row.ours, None, options.before.absolute()
    if options.peer is not None and row.theirs is not None:
        return "published", row.theirs, options.peer, ROOT
    return "ours" if row.theirs is None else "naive", row.other, None, ROOT


def measure(row: Row, folder: Path, options: argparse.Namespace) -> str:
    """The line of a row."""
    against, other, python, tree = opponent(row, options)
    if other is None and row.judged != "own":
        return f"{row.what:52} nothing to compare with: give --peer"
    with ExitStack() as stack:

        def worker(work: Work, python: str | None, tree: Path) -> Worker:
            return stack.enter_context(closing(start(work, python, folder, row, options.threads, tree)))

        ours, theirs = worker(row.ours, None, ROOT), other and worker(other, python, tree)
        print(row.what, file=sys.stderr, flush=True)
        works = 1 if theirs is None or row.column == PEAK else 2
        compared = compare(ours, theirs, options.pairs, options.warm, works, row.column)
    ratios = [theirs / ours for ours, theirs in zip(compared.ours, compared.other)]
    judged = ratios if options.before else row.numbers(compared)
    median, scale = statistics.median(judged), UNITS[row.unit]
    mine, others = ([f"{scale * value:9.4g} {row.unit}" for value in compared.medians] + [""])[:2]
    line = f"{row.what:52} {mine:>14} {others:>14} {against if other else '':9} "
    line += f"{f'{median:6.2f} ({min(judged):.2f}–{max(judged):.2f})':22}"
    if options.before:
        return line
    sign, verdict = ("≥" if row.judged == "ratio" else "≤"), ("ok" if row.reached(median) else "below")
    return f"{line} {sign} {row.bar:<5g} {verdict}"


def files(options: argparse.Namespace, stack: ExitStack) -> Path:
    """A folder with what rows that need files work on."""
    folder = options.files or Path(stack.enter_context(tempfile.TemporaryDirectory()))
    chosen = [row for name, row in rows(options.toy).items() if name in options.rows]
    if any(row.files for row in chosen) and not (folder / "latents" / "val").exists():
        print("encoding pictures for the rows of stage 2 …", file=sys.stderr, flush=True)
        from benchmarks.material import prepare

        sizes = next(row for row in chosen if row.files).ours[1]
        prepare(folder, sizes["vae_dim"], sizes["side"], 4 if options.toy else 16, "0.8.0", options.toy)
    return folder


def table(options: argparse.Namespace, say: Callable[[str], None]) -> None:
    with ExitStack() as stack:
        folder = files(options, stack)
        say(f"{'':52} {'ours':>14} {'theirs':>14} {'':9} {'median (range)':22} bar")
        for name in options.rows:
            say(measure(rows(options.toy)[name], folder, options))


def main() -> None:
    options = parser().parse_args()
    with ExitStack() as stack:
        file = stack.enter_context(options.save.open("w", encoding="utf-8")) if options.save else None

        def say(line: str) -> None:
            for out in (sys.stdout, file):
                if out is not None:
                    print(line, file=out, flush=True)

        say(f"# python -m benchmarks {' '.join(sys.argv[1:])}\n{machine(options.threads)}, {options.pairs} pairs")
        if options.scaling:
            from benchmarks.scaling import scaling

            scaling(options, say)
        else:
            table(options, say)


if __name__ == "__main__":
    main()
