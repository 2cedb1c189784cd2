"""The networks, under the names that the published package gave them."""

from typing import TYPE_CHECKING

from fluxflow.models.activations import BezierActivation, TrainableBezier
from fluxflow.models.conditioning import SPADE, ContextAttentionMixer, FiLM, GatedContextInjection
from fluxflow.models.discriminators import PatchDiscriminator
from fluxflow.models.encoders import BertTextEncoder
from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.network import Network
from fluxflow.models.pipeline import FluxPipeline
from fluxflow.models.vae import FluxCompressor, FluxExpander

if TYPE_CHECKING:
    from fluxflow.pipeline import FluxFlowPipeline

__all__ = [
    "SPADE",
    "BertTextEncoder",
    "BezierActivation",
    "ContextAttentionMixer",
    "FiLM",
    "FluxCompressor",
    "FluxExpander",
    "FluxFlowPipeline",
    "FluxFlowProcessor",
    "FluxPipeline",
    "GatedContextInjection",
    "LatentSpace",
    "Network",
    "PatchDiscriminator",
    "TrainableBezier",
]


def __getattr__(name: str) -> object:
    if name == "FluxFlowPipeline":  # lazily: it imports diffusers, and this package
        from fluxflow.pipeline import FluxFlowPipeline

        return FluxFlowPipeline
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
