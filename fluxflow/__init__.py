"""FluxFlow: a latent text-to-image model whose activations are cubic Bézier curves."""

__version__ = "0.1.0"
