"""FluxFlow: a latent text-to-image model whose activations are cubic Bézier curves."""

import sys

from fluxflow import signals
from fluxflow.threads import wait_briefly

__version__ = "0.1.0"

if sys.argv[0] == "-m":  # Python looks for the command of `python -m fluxflow.…`, whose imports take seconds
    signals.handle(signals.leave)
wait_briefly()
