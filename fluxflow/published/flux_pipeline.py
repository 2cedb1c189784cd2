"""The low-level module of the published API: encode, one flow step, decode, all on packed latents."""

from pathlib import Path

from torch import Tensor, nn

from fluxflow.errors import CheckpointError
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

    def forward(
        self,
        img: Tensor,
        text_embeddings: Tensor | None = None,
        timesteps: Tensor | None = None,
        use_flow: bool = True,
    ) -> Tensor:
        """Image → packet → flow → image.

        Args:
            img: [B, 3, H, W] in [-1, 1].
            text_embeddings: [B, E]; needed with the flow.
            timesteps: times in [0, 1], [B]; needed with the flow.
            use_flow: False reconstructs the image.

        Returns:
            Images [B, 3, H, W].

        Raises:
            ValueError: the flow lacks text or times.
        """
        packed = self.compressor(img)
        if use_flow:
            if text_embeddings is None or timesteps is None:
                raise ValueError("the flow needs text_embeddings and timesteps; use_flow=False goes without")
            packed = self.flow_processor(packed, text_embeddings, timesteps)
        return self.expander(packed)

    @classmethod
    def from_pretrained(cls, path: str | Path) -> "FluxPipeline":
        """Load the three networks of a published checkpoint, or of a run or model folder, in eval mode, on the CPU.

        Raises:
            CheckpointError: it is damaged, or lacks one of them.
        """
        from fluxflow.checkpoint.model import load_model  # here alone: checkpoints are made of these networks

        names = ("compressor", "flow_processor", "expander")
        _, components = load_model(path, only=names)
        if missing := [name for name in names if name not in components]:
            raise CheckpointError(f"{path} has no {' and no '.join(missing)}.")
        return cls(**components).eval()
