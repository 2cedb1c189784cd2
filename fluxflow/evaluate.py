"""Measure trained models: `python -m fluxflow.evaluate outputs/flow/<run>` (commands/evaluate.py)."""

import sys

from fluxflow.commands.evaluate import main

if __name__ == "__main__":
    sys.exit(main())
