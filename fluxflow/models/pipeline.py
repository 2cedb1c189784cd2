"""The low-level module of the published API: encode, one flow step, decode, all on packed latents."""

from torch import Tensor, nn

from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.models.vae import FluxCompressor, FluxExpander


class FluxPipeline(nn.Module):
    """Compressor, flow and expander in one module.

    Args:
        compressor, flow_processor, expander: the three networks.
    """

    def __init__(self, compressor: FluxCompressor, flow_processor: FluxFlowProcessor, expander: FluxExpander) -> None:
        super().__init__()
        self.compressor, self.flow_processor, self.expander = compressor, flow_processor, expander

    def forward(self, image: Tensor, text_embeddings: Tensor, timesteps: Tensor) -> Tensor:
        """Image [B, 3, H, W] → packet → flow at the given times [B] → image [B, 3, H, W]."""
        return self.expander(self.flow_processor(self.compressor(image), text_embeddings, timesteps))
