"""Training with Lightning: one module a stage."""

from fluxflow.training.ema import EMA
from fluxflow.training.encode import LatentEncoder
from fluxflow.training.flow import FlowLitModule
from fluxflow.training.metrics_file import MetricsFile
from fluxflow.training.optimizers import relative_adamw
from fluxflow.training.schedules import CosineSchedule
from fluxflow.training.vae import VAELitModule

__all__ = ["EMA", "CosineSchedule", "FlowLitModule", "LatentEncoder", "MetricsFile", "VAELitModule", "relative_adamw"]
