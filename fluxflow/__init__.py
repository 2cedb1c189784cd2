"""FluxFlow: a latent text-to-image model whose activations are cubic Bézier curves."""

from fluxflow.threads import wait_briefly

__version__ = "0.1.0"

wait_briefly()
