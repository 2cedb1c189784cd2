"""Write a page about a run, or one that compares several: `python -m fluxflow.report RUN…`."""

import argparse
import sys
from pathlib import Path

from fluxflow import signals
from fluxflow.errors import FluxFlowError
from fluxflow.report.page import write_report


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fluxflow.report", description=(__doc__ or "").split(":")[0])
    parser.add_argument("runs", metavar="RUN", nargs="+", help="the folder of a run, outputs/<stage>/<run>")
    where = "the file; report.html in the folder of the run by default, outputs/report.html for several"
    parser.add_argument("--out", metavar="FILE", type=Path, help=where)
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        with signals.unwinding():
            path = write_report(options.runs, options.out)
    except FluxFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(f"Written: {path} ({path.stat().st_size / 1e6:.1f} MB)")
    return 0


if __name__ == "__main__":
    sys.exit(main())
