"""What happens beside the training step: progress, previews, checkpoints, throughput, orderly interruption."""

from fluxflow.training.callbacks.checkpoints import Checkpoints
from fluxflow.training.callbacks.interruption import Interruption
from fluxflow.training.callbacks.previews import Reconstructions, Samples
from fluxflow.training.callbacks.progress import Progress
from fluxflow.training.callbacks.record import RunRecord
from fluxflow.training.callbacks.throughput import Throughput

__all__ = ["Checkpoints", "Interruption", "Progress", "Reconstructions", "RunRecord", "Samples", "Throughput"]
