"""The networks, under the names that the published package gave them."""

from typing import TYPE_CHECKING

from fluxflow.lazy import exports

if TYPE_CHECKING:
    from fluxflow.models.activations import BezierActivation, TrainableBezier
    from fluxflow.models.bezier_text import BezierTextEncoder
    from fluxflow.models.conditioning import SPADE, ContextAttentionMixer, FiLM, GatedContextInjection
    from fluxflow.models.discriminators import PatchDiscriminator
    from fluxflow.models.encoders import BertTextEncoder
    from fluxflow.models.flow import FluxFlowProcessor
    from fluxflow.models.latent_space import LatentSpace
    from fluxflow.models.network import Network
    from fluxflow.models.vae import FluxCompressor, FluxExpander
    from fluxflow.pipeline import FluxFlowPipeline
    from fluxflow.published.flux_pipeline import FluxPipeline

__all__ = [
    "SPADE",
    "BertTextEncoder",
    "BezierActivation",
    "BezierTextEncoder",
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
__getattr__ = exports(
    __name__,
    {
        "BertTextEncoder": "models.encoders",
        "BezierActivation": "models.activations",
        "BezierTextEncoder": "models.bezier_text",
        "ContextAttentionMixer": "models.conditioning",
        "FiLM": "models.conditioning",
        "FluxCompressor": "models.vae",
        "FluxExpander": "models.vae",
        "FluxFlowPipeline": "pipeline",
        "FluxFlowProcessor": "models.flow",
        "FluxPipeline": "published.flux_pipeline",
        "GatedContextInjection": "models.conditioning",
        "LatentSpace": "models.latent_space",
        "Network": "models.network",
        "PatchDiscriminator": "models.discriminators",
        "SPADE": "models.conditioning",
        "TrainableBezier": "models.activations",
    },
)
