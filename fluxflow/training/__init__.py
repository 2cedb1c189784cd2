"""Training with Lightning: one module a stage."""

from typing import TYPE_CHECKING

from fluxflow.lazy import exports

if TYPE_CHECKING:
    from fluxflow.training.ema import EMA
    from fluxflow.training.flow import FlowLitModule
    from fluxflow.training.metrics_file import MetricsFile
    from fluxflow.training.optimizers import CosineSchedule, relative_adamw
    from fluxflow.training.vae import VAELitModule

__all__ = ["EMA", "CosineSchedule", "FlowLitModule", "MetricsFile", "VAELitModule", "relative_adamw"]
__getattr__ = exports(
    __name__,
    {
        "CosineSchedule": "training.optimizers",
        "EMA": "training.ema",
        "FlowLitModule": "training.flow",
        "MetricsFile": "training.metrics_file",
        "VAELitModule": "training.vae",
        "relative_adamw": "training.optimizers",
    },
)
