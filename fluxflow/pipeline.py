"""From prompts to pictures: the pipeline that sample.py, the previews in training and users of diffusers share."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_dpmsolver_multistep import DPMSolverMultistepScheduler
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from fluxflow.checkpoint import load_model, save_model
from fluxflow.checkpoint.model import as_size
from fluxflow.checkpoint.published import Choices
from fluxflow.diffusion.sampler import make_scheduler, sample
from fluxflow.diffusion.schedule import TIMESTEPS
from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.kernels.fourier import kept_kernels
from fluxflow.models import BertTextEncoder, FluxCompressor, FluxExpander, FluxFlowProcessor
from fluxflow.models.compiler import check_compiler
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.packet import pack
from fluxflow.models.tiles import check_tile
from fluxflow.pictures import to_pil

StepCallback = Callable[["FluxFlowPipeline", int, int, dict[str, Tensor]], dict[str, Tensor] | None]


class FluxFlowPipeline(DiffusionPipeline):
    """Text to image: DPM-Solver++ over the flow's velocity with classifier-free guidance, decoded by the VAE.

    Building one from networks in memory costs nothing: it keeps references, and leaves their mode and device alone.

    Args:
        compressor: stage 1's encoder, kept so that a saved pipeline can also encode.
        expander: stage 1's decoder.
        flow_processor: predicts the velocity of normalised latent tokens.
        text_encoder: captions → embeddings; the empty caption is the null embedding.
        tokenizer: the text encoder's own by default.
        scheduler: DPM-Solver++ of order 2 over the training schedule by default.
        latent_mean: mean of each latent channel, [D]; zeros by default.
        latent_std: deviation of each latent channel, [D]; ones by default.
        sample_size: side, or height and width, in pixels, of pictures whose size is not asked for.
    """

    _optional_components = ["tokenizer", "scheduler"]  # noqa: RUF012 (declared so by diffusers)

    def __init__(
        self,
        compressor: FluxCompressor,
        expander: FluxExpander,
        flow_processor: FluxFlowProcessor,
        text_encoder: BertTextEncoder,
        tokenizer: PreTrainedTokenizerBase | None = None,
        scheduler: DPMSolverMultistepScheduler | None = None,
        latent_mean: Tensor | Sequence[float] | None = None,
        latent_std: Tensor | Sequence[float] | None = None,
        sample_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(
            compressor=compressor,
            expander=expander,
            flow_processor=flow_processor,
            text_encoder=text_encoder,
            tokenizer=tokenizer or text_encoder.tokenizer,
            scheduler=scheduler or make_scheduler(),
        )
        self.latent_space = LatentSpace(compressor, expander, _vector(latent_mean), _vector(latent_std))
        self.latent_space.to(self.device)
        self.register_to_config(
            latent_mean=self.latent_space.mean.tolist(),
            latent_std=self.latent_space.std.tolist(),
            sample_size=as_size(sample_size) if sample_size is not None else None,
        )

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str],
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        num_images_per_prompt: int = 1,
        generator: torch.Generator | Sequence[torch.Generator] | None = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "pt", "np"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        tile: int | None = None,
    ) -> Any:
        """Draw pictures.

        Args:
            prompt: one caption or several.
            negative_prompt: what to guide away from instead of the empty caption: one for all prompts or one each.
            height: pixels, a multiple of 2^downscales; the training size by default.
            width: as `height`.
            num_inference_steps: steps of the solver, each one call of the flow network.
            guidance_scale: 1 follows the prompt without guidance; higher values follow it more strongly.
            num_images_per_prompt: pictures of each prompt, which stay next to each other.
            generator: one for all pictures, which draw from it in turn, or one a picture: then the noise of a
                picture does not depend on its neighbours.
            latents: the initial noise of N(0, 1) instead, [pictures, tokens, D].
            output_type: "pil" pictures, "pt" a tensor [B, 3, H, W] in [0, 1], or "np" an array [B, H, W, 3] in [0, 1].
            return_dict: False gives a tuple with the pictures.
            callback_on_step_end: called after each step with this pipeline, the step, its timestep and
                {"latents": tokens}; a dict that it returns replaces the latents.
            tile: side in pixels of the tiles in which larger pictures are decoded, to save memory; they show no seams.
                By default 512 for pictures of more than 1024×1024 pixels.

        Returns:
            An `ImagePipelineOutput` whose `images` are the pictures, or a tuple of them.

        Raises:
            ConfigError: an argument that cannot work.
        """
        _check(output_type, num_inference_steps, num_images_per_prompt, tile)
        text, null_text = self._encode(prompt, negative_prompt, num_images_per_prompt)
        latent_size = self.latent_space.latent_size(*self._size(height, width))
        tokens = self._noise(len(text), latent_size, generator, latents)
        with kept_kernels(), self.progress_bar(total=num_inference_steps) as progress:  # pyright: ignore[reportCallIssue]
            packed = sample(
                self.flow_processor,
                self.scheduler,
                pack(tokens, latent_size, self.compressor.max_hw),
                latent_size,
                text,
                null_text,
                num_inference_steps,
                guidance_scale,
                partial(self._after_step, progress, callback_on_step_end),
            )
        pictures = _OUTPUTS[output_type](self.latent_space.decode(packed, latent_size, tile))
        return ImagePipelineOutput(images=pictures) if return_dict else (pictures,)

    def compile_flow(self) -> None:
        """Have the flow compiled for each shape that it meets from now on; on GPUs a step is then one CUDA graph.

        Raises:
            ConfigError: there is no C++ compiler.
        """
        check_compiler()
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self.flow_processor.compile(dynamic=False, mode=mode)

    def _after_step(
        self, progress: Any, callback: StepCallback | None, step: int, timestep: int, tokens: Tensor
    ) -> Tensor | None:
        """Count a step; return the tokens with which the callback replaces its own, if it does."""
        progress.update()
        if callback is None:
            return None
        return (callback(self, step, timestep, {"latents": tokens}) or {}).get("latents")

    def _encode(
        self, prompt: str | Sequence[str], negative_prompt: str | Sequence[str] | None, copies: int
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings [B, E] of prompts and negative prompts; every caption is encoded once."""
        prompts = [prompt] if isinstance(prompt, str) else list(prompt)
        if not prompts:
            raise ConfigError("prompt is an empty list; give at least one caption.")
        negatives = negative_prompt if negative_prompt is not None else ""
        negatives = [negatives] * len(prompts) if isinstance(negatives, str) else list(negatives)
        if len(negatives) != len(prompts):
            raise ConfigError(f"{len(negatives)} negative prompts for {len(prompts)} prompts; give one or as many.")
        captions = list(dict.fromkeys(prompts + negatives))
        embeddings = self.text_encoder.encode(captions).to(self.dtype)
        text, null_text = (embeddings[[captions.index(c) for c in wanted]] for wanted in (prompts, negatives))
        return text.repeat_interleave(copies, 0), null_text.repeat_interleave(copies, 0)

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        trained: Sequence[int] | None = self.config["sample_size"]
        if trained is None and (height is None or width is None):
            raise ConfigError("This model does not say at which size it was trained; give height and width.")
        default_height, default_width = trained or (0, 0)
        return default_height if height is None else height, default_width if width is None else width

    def _noise(
        self,
        count: int,
        latent_size: tuple[int, int],
        generator: torch.Generator | Sequence[torch.Generator] | None,
        latents: Tensor | None,
    ) -> Tensor:
        """Return the initial tokens [count, T, D]."""
        shape = (latent_size[0] * latent_size[1], len(self.latent_space.mean))
        if latents is not None:
            if latents.shape != (count, *shape):
                raise ConfigError(f"latents must have the shape {[count, *shape]}, not {list(latents.shape)}.")
            return latents.to(self.device, self.dtype)
        generators = [generator] * count if generator is None or isinstance(generator, torch.Generator) else generator
        if len(generators) != count:
            raise ConfigError(f"There are {len(generators)} generators for {count} pictures; give one or as many.")
        noise = [torch.randn(shape, generator=g, device=g.device if g else None).to(self.device) for g in generators]
        return torch.stack(noise).to(self.dtype)

    def save_pretrained(self, save_directory: str | Path) -> None:
        """Write this pipeline as a model folder."""
        save_model(save_directory, **self.components, **self.parameters)

    @classmethod
    def from_pretrained(
        cls,
        path: str | Path,
        torch_dtype: torch.dtype | None = None,
        device: str | torch.device = "cpu",
        text_model: str | None = None,
    ) -> "FluxFlowPipeline":
        """Load the pipeline of a run or model folder, or of a checkpoint of the published package.

        Args:
            path: a run folder of stage 2, a model folder written by one or by `save_pretrained`, or a published
                .safetensors file or folder.
            torch_dtype: of the networks; as stored by default.
            device: where they go.
            text_model: folder or hub name of the DistilBERT whose tokenizer a published checkpoint leaves out.

        Raises:
            CheckpointError: the folder holds no complete model.
        """
        index, components = load_model(path, Choices(text_model=text_model))
        if missing := [name for name in ("flow_processor", "text_encoder", "tokenizer") if name not in components]:
            raise CheckpointError(
                f"{index.folder} has no {' and no '.join(missing)}: a VAE alone cannot draw from prompts. "
                "Train a flow on it: python train.py stage=flow vae=<this run>."
            )
        stored = {"latent_mean": index.latent_mean, "latent_std": index.latent_std, "sample_size": index.sample_size}
        return cls(**components, **stored).to(device, torch_dtype)

    def to(self, *args: Any, **kwargs: Any) -> "FluxFlowPipeline":
        """Move and cast the networks; the arguments are those of `torch.nn.Module.to`."""
        for network in (self.latent_space, self.flow_processor, self.text_encoder):
            network.to(*args, **kwargs)
        return self

    @property
    def device(self) -> torch.device:
        """The device of the flow network."""
        return next(self.flow_processor.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        """The type of the flow network's weights."""
        return next(self.flow_processor.parameters()).dtype


def _check(output_type: str, steps: int, copies: int, tile: int | None) -> None:
    if output_type not in _OUTPUTS:
        raise ConfigError(f"output_type={output_type!r} is unknown; choose one of {', '.join(_OUTPUTS)}.")
    if not 1 <= steps <= TIMESTEPS:
        raise ConfigError(f"num_inference_steps is {steps}: it can be 1 to {TIMESTEPS}.")
    if copies < 1:
        raise ConfigError(f"num_images_per_prompt is {copies}: it must be 1 or more.")
    check_tile(tile)


def _vector(values: Tensor | Sequence[float] | None) -> Tensor | None:
    return None if values is None else torch.as_tensor(values, dtype=torch.float32)


def _to_unit(images: Tensor) -> Tensor:
    return (images.float().clamp(-1, 1) + 1) / 2


def _to_numpy(images: Tensor) -> np.ndarray:
    return _to_unit(images).permute(0, 2, 3, 1).cpu().numpy()


_OUTPUTS: dict[str, Callable[[Tensor], Any]] = {"pil": to_pil, "pt": _to_unit, "np": _to_numpy}
