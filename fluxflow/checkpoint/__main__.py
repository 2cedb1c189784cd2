"""Bring published FluxFlow checkpoints in and out: `python -m fluxflow.checkpoint import|export|inspect`."""

import argparse
import shutil
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from fluxflow import signals
from fluxflow.checkpoint.model import load_model, save_model
from fluxflow.errors import CheckpointError, FluxFlowError
from fluxflow.published.description import describe
from fluxflow.published.reader import load_published
from fluxflow.published.sizes import Choices
from fluxflow.published.writer import export_published


def parse_arguments(arguments: list[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m fluxflow.checkpoint", description=(__doc__ or "").split(":")[0])
    commands = parser.add_subparsers(dest="command", required=True)
    importing = commands.add_parser("import", help="make a model folder of a published checkpoint")
    importing.add_argument("source", metavar="IN", help="a .safetensors file, or a folder of published tools")
    importing.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    importing.add_argument("--version", help="of the model, where no tensor tells it")
    importing.add_argument(
        "--attn-heads", type=int, help="of the compressor (8, or the most below that divide its channels)"
    )
    importing.add_argument("--flow-heads", type=int, help="of a flow without recorded frequencies (likewise)")
    importing.add_argument("--max-hw", type=int, help="latent side that the size token calls 1 (1024)")
    importing.add_argument("--text-model", help="folder or hub name of its DistilBERT (distilbert-base-uncased)")
    exporting = commands.add_parser("export", help="write a model as published tools keep theirs")
    exporting.add_argument("source", metavar="RUN", help="a run or model folder")
    exporting.add_argument("out", metavar="OUT", type=Path, help="a new folder")
    exporting.add_argument("--format", choices=["published"], required=True)
    inspecting = commands.add_parser("inspect", help="say what a checkpoint is, without loading it")
    inspecting.add_argument("source", metavar="IN", help="a file or folder of published tools, or a folder of ours")
    inspecting.add_argument("--tensors", action="store_true", help="list every tensor")
    return parser.parse_args(arguments)


def import_(options: argparse.Namespace) -> None:
    """Run `import`."""
    choices = Choices(options.version, options.attn_heads, options.flow_heads, options.max_hw, options.text_model)
    index, components = load_published(options.source, choices)
    _need_vae(components, options.source)
    with _new_folder(options.out):
        save_model(
            options.out,
            **components,
            latent_mean=index.latent_mean,
            latent_std=index.latent_std,
            sample_size=index.sample_size,
        )
    print(f"Written: {options.out} ({', '.join(components)})")


def export(options: argparse.Namespace) -> None:
    """Run `export`."""
    index, components = load_model(options.source)
    _need_vae(components, options.source)
    with _new_folder(options.out):
        reader = export_published(index, components, options.out)
    print(f"Written: {options.out}, for {reader}")


def inspect(options: argparse.Namespace) -> None:
    """Run `inspect`."""
    print("\n".join(describe(options.source, options.tensors)))


def main(arguments: list[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    options = parse_arguments(arguments)
    try:
        with signals.unwinding():
            if options.command != "inspect":
                _refuse_full(options.out)
            {"import": import_, "export": export, "inspect": inspect}[options.command](options)
    except FluxFlowError as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


def _refuse_full(out: Path) -> None:
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise CheckpointError(f"{out} is not empty: name a new folder, or remove it first.")


@contextmanager
def _new_folder(out: Path) -> Iterator[None]:
    """Leave nothing of a folder that could not be written to its end."""
    try:
        yield
    except BaseException:
        shutil.rmtree(out, ignore_errors=True)
        raise


def _need_vae(components: dict[str, object], source: str) -> None:
    if missing := [name for name in ("compressor", "expander") if name not in components]:
        raise CheckpointError(f"{source} has no {' and no '.join(missing)}: a model has both.")


if __name__ == "__main__":
    sys.exit(main())
