"""The command: how often the detector is right, as the tables of docs/shapes.md."""

import argparse


def main(arguments: list[str] | None = None) -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(
        prog="python -m fluxflow.metrics.shapes",
        description="Find the objects in pictures of shapes, and print how often they are found as they were drawn.",
    )
    parser.add_argument("--count", type=int, default=2000, help="pictures (%(default)s)")
    parser.add_argument(
        "--sides", type=int, nargs="+", default=[64, 32], help="of the pictures in pixels (%(default)s)"
    )
    options = parser.parse_args(arguments)
    if options.count < 1 or min(options.sides) < 16:
        parser.error("--count is at least 1, --sides at least 16")

    from fluxflow.data.shapes.reader import ShapesReader  # here: it loads PyTorch, and --help needs none
    from fluxflow.metrics.shapes.accuracy import report

    reader = ShapesReader("val", image_size=64, val_samples=options.count)
    print(report([reader.sample(index)[0] for index in range(options.count)], options.sides))


if __name__ == "__main__":
    main()
