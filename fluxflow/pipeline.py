"""From prompts to pictures: the pipeline that sample.py, the previews in training and users of diffusers share."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import diffusers
import numpy as np
import torch
from diffusers.callbacks import MultiPipelineCallbacks, PipelineCallback
from diffusers.pipelines.pipeline_loading_utils import ALL_IMPORTABLE_CLASSES, LOADABLE_CLASSES
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from fluxflow.diffusion.process import TIMESTEPS
from fluxflow.diffusion.sampler import Generators, Sampling, sample
from fluxflow.errors import ConfigError
from fluxflow.image_grid import to_pil
from fluxflow.kernels.fourier import cached_kernel_spectra
from fluxflow.models.compilation import check_compiler
from fluxflow.models.latent_space import SIDE, check_tile
from fluxflow.models.packet import pack
from fluxflow.parts import PipelineParts, check_scheduler
from fluxflow.prompts import Prompt, embeddings

StepCallback = Callable[["FluxFlowPipeline", int, int, dict[str, Tensor]], dict[str, Tensor] | None]

# What a callback may see and replace → where it is in the sampler.
TENSORS = {"latents": "tokens", "prompt_embeds": "text", "negative_prompt_embeds": "null_text"}


class FluxFlowPipeline(PipelineParts):
    """Text to image: DPM-Solver++ over the flow's velocity with classifier-free guidance, decoded by the VAE.

    Building one from networks in memory costs nothing: it keeps references, and leaves their mode and device alone. The
    arguments are those of `PipelineParts`.
    """

    _callback_tensor_inputs = list(TENSORS)  # noqa: RUF012 (declared so by diffusers)
    _guidance_scale, _num_timesteps, _interrupt, _tile = 1.0, 0, False, None

    @torch.no_grad()
    def __call__(
        self,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | Sequence[str] | None = None,
        height: int | None = None,
        width: int | None = None,
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        num_images_per_prompt: int | None = 1,
        generator: Generators = None,
        latents: Tensor | None = None,
        output_type: Literal["pil", "pt", "np", "latent"] = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        tile: int | None = None,
        eta: float = 0.0,
        prompt_embeds: Tensor | None = None,
        negative_prompt_embeds: Tensor | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] = ("latents",),
    ) -> Any:
        """Draw pictures.

        Args:
            prompt: one caption or several.
            negative_prompt: what to guide away from instead of the empty caption: one for all prompts or one each.
            height: pixels, a multiple of 2^downscales; the training size by default.
            width: as `height`.
            num_inference_steps: steps of the solver, each one call of the flow network, of some solvers two.
            guidance_scale: up to 1 follows the prompt without guidance; higher values follow it more strongly.
            num_images_per_prompt: pictures of each prompt, which stay next to each other.
            generator: one for all pictures, which draw from it in turn, or one a picture: then the noise of a
                picture does not depend on its neighbours.
            latents: the initial noise of N(0, 1) instead, [pictures, tokens, D].
            output_type: "pil" pictures, "pt" a tensor [B, 3, H, W] in [0, 1], "np" an array [B, H, W, 3] in [0, 1], or
                "latent" tokens [B, tokens, D], which `decode` makes pictures of.
            return_dict: False gives a tuple with the pictures.
            callback_on_step_end: called after each step with this pipeline, the step, its timestep and a dict of
                tensors; those in a dict that it returns replace them. It may set `_interrupt` to stop, and
                `_guidance_scale`.
            tile: side in pixels of the tiles in which larger pictures are decoded, to save memory; they show no seams.
                By default 512 for pictures of more than 1024×1024 pixels, or after `enable_vae_tiling()`.
            eta: share of noise that DDIM adds at each step, from 0 to 1; other solvers do not take it.
            prompt_embeds: what the text encoder makes of prompts, [B, E], instead of them.
            negative_prompt_embeds: likewise, [B, E].
            callback_on_step_end_tensor_inputs: what the callback is given: "latents" [B, tokens, D],
                "prompt_embeds" and "negative_prompt_embeds" [B, E].

        Returns:
            An `ImagePipelineOutput` whose `images` are the pictures, or a tuple of them.

        Raises:
            ConfigError: an argument that cannot work.
        """
        if isinstance(callback_on_step_end, PipelineCallback | MultiPipelineCallbacks):
            callback_on_step_end_tensor_inputs = callback_on_step_end.tensor_inputs
        copies = 1 if num_images_per_prompt is None else num_images_per_prompt
        _check(output_type, copies, tile, callback_on_step_end_tensor_inputs)
        self._check_steps(num_inference_steps)
        text, null_text = self._text(prompt, prompt_embeds, negative_prompt, negative_prompt_embeds, copies)
        height, width = self._size(height, width)
        latent_size = self.latent_space.latent_size(height, width)
        generator = generator if generator is None or isinstance(generator, torch.Generator) else list(generator)
        tokens = self._noise(len(text), latent_size, generator, latents)
        state = Sampling(tokens, text, null_text, guidance_scale)
        self._guidance_scale, self._interrupt = guidance_scale, False
        size_token = pack(tokens, latent_size, self.compressor.max_hw)[:, -1:]
        solving = sample(
            self._flow, self.scheduler, state, size_token, latent_size, num_inference_steps, generator, eta
        )
        with cached_kernel_spectra(), self.progress_bar(total=num_inference_steps) as progress:  # pyright: ignore[reportCallIssue]
            for step, timestep in solving:
                self._num_timesteps = len(self.scheduler.timesteps)
                progress.update(num_inference_steps * (step + 1) // self._num_timesteps - progress.n)
                if callback_on_step_end is not None:
                    self._call_back(callback_on_step_end, step, timestep, state, callback_on_step_end_tensor_inputs)
                if self._interrupt:
                    break
        drawn = self.decode(state.tokens, height, width, output_type, tile)
        self.maybe_free_model_hooks()
        return ImagePipelineOutput(images=drawn) if return_dict else (drawn,)

    @torch.no_grad()
    def decode(
        self,
        latents: Tensor,
        height: int | None = None,
        width: int | None = None,
        output_type: Literal["pil", "pt", "np", "latent"] = "pil",
        tile: int | None = None,
    ) -> Any:
        """Make pictures of tokens, such as `output_type="latent"` and callbacks give.

        Args:
            latents: [B, tokens, D].
            height, width: pixels of the pictures; the training size by default.
            output_type, tile: as of a call.

        Raises:
            ConfigError: tokens that are not of this size, or numbers that are too large for float16.
        """
        if output_type == "latent":
            return latents
        space, size = self.latent_space, self._size(height, width)
        latent_size = space.latent_size(*size)
        self._check_tokens(latents, len(latents), latent_size)
        packed = pack(latents.to(space.mean), latent_size, space.max_hw)
        images = space.decode(packed, latent_size, tile or self._tile)
        if self.expander.dtype == torch.float16 and not images.isfinite().all():
            raise ConfigError("The decoder's numbers are too large for float16: take bfloat16 or float32.")
        return _OUTPUTS[output_type](images)

    def compile_flow(self) -> None:
        """Have the flow compiled for each shape that it meets from now on; on GPUs a step is then one CUDA graph.

        Raises:
            ConfigError: there is no C++ compiler.
        """
        check_compiler()
        mode = "reduce-overhead" if self.device.type == "cuda" else "default"
        self.flow_processor.compile(dynamic=False, mode=mode)

    def enable_vae_tiling(self) -> None:
        """Decode all pictures in tiles of 512 pixels."""
        self._tile = SIDE

    def disable_vae_tiling(self) -> None:
        """Decode only large pictures in tiles."""
        self._tile = None

    def enable_sequential_cpu_offload(self, *args: Any, **kwargs: Any) -> None:
        """Refused: the networks read the weights of their layers directly."""
        raise ConfigError("These networks cannot be moved layer by layer: take enable_model_cpu_offload().")

    @property
    def guidance_scale(self) -> float:
        """Of the call that is going on, or was last; a callback may set `_guidance_scale`."""
        return self._guidance_scale

    @property
    def num_timesteps(self) -> int:
        """Calls of the flow in the call that is going on, or was last."""
        return self._num_timesteps

    @property
    def interrupt(self) -> bool:
        """Whether a callback asked to stop, by `_interrupt`."""
        return self._interrupt

    def _flow(self, packed: Tensor, text: Tensor, time: Tensor, latent_size: tuple[int, int]) -> Tensor:
        """The flow in its own type, at the exact time."""
        dtype = self.flow_processor.dtype
        return self.flow_processor(packed.to(dtype), text.to(packed.device, dtype), time, latent_size)

    def _call_back(
        self, callback: StepCallback, step: int, timestep: int, state: Sampling, wanted: Sequence[str]
    ) -> None:
        """Show the callback what it wants to see, and take over what it changes."""
        changed = callback(self, step, timestep, {name: getattr(state, TENSORS[name]) for name in wanted}) or {}
        for name, tensor in changed.items():
            if name in TENSORS:
                setattr(state, TENSORS[name], tensor)
        state.guidance_scale = self._guidance_scale

    def _text(
        self, prompt: Prompt, text: Tensor | None, negative: Prompt, null_text: Tensor | None, copies: int
    ) -> tuple[Tensor, Tensor]:
        """Return the embeddings of each picture, as `embeddings`."""
        if self.text_encoder is not None and self.text_encoder.tokenizer is not self.tokenizer:
            self.text_encoder.tokenizer = self.tokenizer
        both = embeddings(self.text_encoder, prompt, text, negative, null_text)
        text, null_text = (one.to(self._execution_device).repeat_interleave(copies, 0) for one in both)
        return text, null_text

    def _size(self, height: int | None, width: int | None) -> tuple[int, int]:
        trained: Sequence[int] | None = self.config["sample_size"]
        if trained is None and (height is None or width is None):
            raise ConfigError("This model does not say at which size it was trained; give height and width.")
        default_height, default_width = trained or (0, 0)
        return default_height if height is None else height, default_width if width is None else width

    def _noise(self, count: int, latent_size: tuple[int, int], generator: Generators, latents: Tensor | None) -> Tensor:
        """Return the initial tokens [count, T, D], in float32."""
        generators = list(generator) if isinstance(generator, Sequence) else [generator] * count
        if len(generators) != count:
            raise ConfigError(f"There are {len(generators)} generators for {count} pictures; give one or as many.")
        device = self._execution_device
        if latents is not None:
            self._check_tokens(latents, count, latent_size)
            return latents.to(device, torch.float32)
        shape = (latent_size[0] * latent_size[1], len(self.config["latent_mean"]))
        noise = [torch.randn(shape, generator=g, device=g.device if g else None).to(device) for g in generators]
        return torch.stack(noise)

    def _check_tokens(self, latents: Tensor, count: int, latent_size: tuple[int, int]) -> None:
        shape = [count, latent_size[0] * latent_size[1], len(self.config["latent_mean"])]
        if list(latents.shape) != shape:
            raise ConfigError(f"latents must have the shape {shape}, not {list(latents.shape)}.")

    def _check_steps(self, steps: int) -> None:
        check_scheduler(self.scheduler)
        most = self.scheduler.config.get("original_inference_steps") or TIMESTEPS
        if not 1 <= steps <= most:
            raise ConfigError(f"num_inference_steps is {steps}: it can be 1 to {most}.")


def _check(output_type: str, copies: int, tile: int | None, tensors: Sequence[str]) -> None:
    if output_type not in (*_OUTPUTS, "latent"):
        raise ConfigError(f"output_type={output_type!r} is unknown; choose one of {', '.join(_OUTPUTS)}, latent.")
    if copies < 1:
        raise ConfigError(f"num_images_per_prompt is {copies}: it must be 1 or more.")
    if unknown := [name for name in tensors if name not in TENSORS]:
        raise ConfigError(f"callback_on_step_end_tensor_inputs: {unknown[0]!r} is none of {', '.join(TENSORS)}.")
    check_tile(tile)


def _to_unit(images: Tensor) -> Tensor:
    return (images.float().clamp(-1, 1) + 1) / 2


def _to_numpy(images: Tensor) -> np.ndarray:
    return _to_unit(images).permute(0, 2, 3, 1).cpu().numpy()


_OUTPUTS: dict[str, Callable[[Tensor], Any]] = {"pil": to_pil, "pt": _to_unit, "np": _to_numpy}

# `DiffusionPipeline.from_pretrained(folder)` looks for the class that a folder names in diffusers, and in these tables
# for how parts of other libraries are saved and loaded.
diffusers.FluxFlowPipeline = FluxFlowPipeline  # pyright: ignore[reportAttributeAccessIssue]
LOADABLE_CLASSES["fluxflow.models"] = {"Network": ["save_pretrained", "from_pretrained"]}
ALL_IMPORTABLE_CLASSES.update(LOADABLE_CLASSES["fluxflow.models"])
