"""FluxFlow: a latent text-to-image model whose activations are cubic Bézier curves."""

import sys
from pathlib import Path

from fluxflow import signals
from fluxflow.threads import wait_briefly

__version__ = "0.1.0"

# `python -m fluxflow.…` and the installed commands, whose imports take seconds
if Path(sys.argv[0]).name in ("-m", "fluxflow-train", "fluxflow-sample"):
    signals.handle(signals.leave)
wait_briefly()
