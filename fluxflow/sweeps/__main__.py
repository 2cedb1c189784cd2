"""Say which model of a sweep is better, at what cost, and how sure that is: `python -m fluxflow.sweeps FOLDER`."""

import argparse
import sys
from pathlib import Path

from fluxflow import signals
from fluxflow.errors import FluxFlowError
from fluxflow.sweeps.answer import NAME, as_markdown, write_answer


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fluxflow.sweeps", description=(__doc__ or "").split(":")[0])
    parser.add_argument("folders", metavar="FOLDER", nargs="+", help="of a sweep, outputs/sweeps/<name>, or runs")
    measure = "a column of metrics.csv (val/psnr), or group/name of evaluation.json (samples/kid)"
    parser.add_argument("--measure", help=f"{measure}; val/psnr of VAEs and val/loss of flows by default")
    parser.add_argument("--out", metavar="FOLDER", type=Path, help="where the files go (the folder of the sweep)")
    return parser.parse_args(arguments)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        with signals.unwinding():
            found = write_answer(options.folders, options.measure, options.out)
    except FluxFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    print(as_markdown(found))
    print(f"Written: {options.out or options.folders[0]}/{NAME}.html, .md and .csv")
    return 0


if __name__ == "__main__":
    sys.exit(main())
