"""What happens beside the training step: progress, previews, measures, checkpoints, speed, report, interruption."""

from typing import TYPE_CHECKING

from fluxflow.lazy import exports

if TYPE_CHECKING:
    from fluxflow.training.callbacks.checkpoints import Checkpoints
    from fluxflow.training.callbacks.curves import Curves
    from fluxflow.training.callbacks.interruption import Interruption
    from fluxflow.training.callbacks.measures import Measures
    from fluxflow.training.callbacks.previews import Reconstructions, Samples
    from fluxflow.training.callbacks.progress_bar import Progress
    from fluxflow.training.callbacks.record import RunRecord
    from fluxflow.training.callbacks.report import Report
    from fluxflow.training.callbacks.throughput import Throughput

__all__ = [
    "Checkpoints",
    "Curves",
    "Interruption",
    "Measures",
    "Progress",
    "Reconstructions",
    "Report",
    "RunRecord",
    "Samples",
    "Throughput",
]
__getattr__ = exports(
    __name__,
    {
        "Checkpoints": "training.callbacks.checkpoints",
        "Curves": "training.callbacks.curves",
        "Interruption": "training.callbacks.interruption",
        "Measures": "training.callbacks.measures",
        "Progress": "training.callbacks.progress_bar",
        "Reconstructions": "training.callbacks.previews",
        "Report": "training.callbacks.report",
        "RunRecord": "training.callbacks.record",
        "Samples": "training.callbacks.previews",
        "Throughput": "training.callbacks.throughput",
    },
)
