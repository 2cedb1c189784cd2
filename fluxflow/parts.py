"""The parts of a pipeline: how they are held, replaced, moved, saved and loaded, in the ways of diffusers.

Options of diffusers' `from_pretrained` that mean something here are taken, others are passed over or refused by name.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Self

import torch
from diffusers.pipelines.pipeline_utils import DiffusionPipeline
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn
from transformers import PreTrainedTokenizerBase

from fluxflow.checkpoint.model import COMPONENTS, VAE, as_size, load_model, save_model
from fluxflow.diffusion.sampler import make_scheduler, unfitness
from fluxflow.errors import CheckpointError, ConfigError
from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.models.latent_space import LatentSpace
from fluxflow.models.text_encoder import TextEncoder
from fluxflow.models.vae import FluxCompressor, FluxExpander
from fluxflow.published.sizes import Choices

Dtype = torch.dtype | str | Mapping[str, torch.dtype | str] | None

# Options of `DiffusionPipeline.from_pretrained` on downloads and on loading in pieces, which there are none of here.
WITHOUT_EFFECT = (
    "cache_dir", "disable_mmap", "force_download", "local_files_only", "low_cpu_mem_usage", "mirror", "proxies",
    "revision", "token",
)  # fmt: skip
REFUSED = {
    "custom_pipeline": "a model folder holds no code",
    "quantization_config": "these networks are not quantised",
    "trust_remote_code": "a model folder holds no code, and none of anybody else's is run",
    "variant": "a model folder holds one set of weights; choose their type by dtype=",
}


def check_options(options: Mapping[str, Any]) -> None:
    """Refuse options of diffusers that mean nothing here, and unknown ones as Python does."""
    for name, value in options.items():
        if name in REFUSED and value not in (None, False):
            raise ConfigError(f"{name}={value!r}: {REFUSED[name]}.")
        if name == "use_safetensors" and value is False:
            raise ConfigError("use_safetensors=False asks for pickles, which run code: leave it out.")
        if name not in (*WITHOUT_EFFECT, *REFUSED, "use_safetensors"):
            raise TypeError(f"from_pretrained() got an unexpected keyword argument {name!r}")


def device_of(device: str | torch.device, device_map: Any) -> str | torch.device:
    if device_map is None:
        return device
    if not isinstance(device_map, str) or device_map in ("auto", "balanced"):
        raise ConfigError(f"device_map={device_map!r} spreads over several devices: name one, such as 'cuda' or 'cpu'.")
    return device_map


def dtype_of(name: str, dtype: Dtype) -> torch.dtype | None:
    """Return the type that is asked for a network; None leaves it as it is."""
    asked = dtype.get(name, dtype.get("default")) if isinstance(dtype, Mapping) else dtype
    found = getattr(torch, asked.removeprefix("torch."), asked) if isinstance(asked, str) else asked
    if found is None or found == "auto":
        return None
    if not isinstance(found, torch.dtype) or not found.is_floating_point:
        raise ConfigError(f"dtype={asked!r} is no type of weights; choose float32, bfloat16, float16 or auto.")
    return found


PARAMETERS = ("latent_mean", "latent_std", "sample_size")


class PipelineParts(DiffusionPipeline):
    """What a pipeline consists of.

    A part that is replaced, as in `pipeline.expander = other`, is the one that draws and that is saved; the statistics
    of the latents, which the flow was trained with, stay. The compressor carries them to another pipeline.

    Args:
        compressor: stage 1's encoder, kept so that a saved pipeline can also encode.
        expander: stage 1's decoder.
        flow_processor: predicts the velocity of normalised latent tokens.
        text_encoder: captions → embeddings; the empty caption is the null embedding. None: embeddings are given.
        tokenizer: the text encoder's own by default.
        scheduler: DPM-Solver++ of order 2 over the training schedule by default, or another one of
            `fluxflow.diffusion.sampler.SCHEDULERS`.
        latent_mean: mean of each latent channel, [D]; by default what the compressor carries, or zeros.
        latent_std: deviation of each latent channel, [D]; likewise, or ones.
        sample_size: side, or height and width, in pixels, of pictures whose size is not asked for; likewise.

    Raises:
        ConfigError: a scheduler that cannot draw with this flow, or statistics of another latent.
    """

    _optional_components = ["text_encoder", "tokenizer", "scheduler"]  # noqa: RUF012 (declared so by diffusers)
    model_cpu_offload_seq = "text_encoder->flow_processor->expander"

    def __init__(
        self,
        compressor: FluxCompressor,
        expander: FluxExpander,
        flow_processor: FluxFlowProcessor,
        text_encoder: TextEncoder | None = None,
        tokenizer: PreTrainedTokenizerBase | None = None,
        scheduler: SchedulerMixin | None = None,
        latent_mean: Tensor | Sequence[float] | None = None,
        latent_std: Tensor | Sequence[float] | None = None,
        sample_size: int | Sequence[int] | None = None,
    ) -> None:
        super().__init__()
        scheduler = scheduler or make_scheduler()
        check_scheduler(scheduler)
        self.register_modules(
            compressor=compressor,
            expander=expander,
            flow_processor=flow_processor,
            text_encoder=text_encoder,
            tokenizer=tokenizer or getattr(text_encoder, "tokenizer", None),
            scheduler=scheduler,
        )
        channels = compressor.packet_channels
        given = {"latent_mean": latent_mean, "latent_std": latent_std, "sample_size": sample_size}
        known = {"latent_mean": [0.0] * channels, "latent_std": [1.0] * channels, "sample_size": None}
        known |= compressor.latents | {name: value for name, value in given.items() if value is not None}
        size = known.pop("sample_size")
        statistics = {name: torch.as_tensor(values, dtype=torch.float32).tolist() for name, values in known.items()}
        for name, values in statistics.items():
            if len(values) != channels:
                raise ConfigError(f"{name} has {len(values)} values for latents of {channels} channels.")
        self.register_to_config(**statistics, sample_size=None if size is None else as_size(size))
        compressor.latents = self.parameters

    def __setattr__(self, name: str, value: Any) -> None:
        super().__setattr__(name, value)
        if name == "text_encoder" and getattr(value, "tokenizer", None) is not None:
            self.tokenizer = value.tokenizer

    @property
    def components(self) -> dict[str, Any]:
        """The parts by name, from which `FluxFlowPipeline(**components)` makes the same pipeline."""
        components = super().components
        components["compressor"].latents = self.parameters
        return components

    @property
    def latent_space(self) -> LatentSpace:
        """The VAE as it is now, with the statistics of its latents in float32."""
        mean, std = (torch.tensor(self.config[name], device=self._execution_device) for name in PARAMETERS[:2])
        return LatentSpace(self.compressor, self.expander, mean, std)

    def save_pretrained(self, save_directory: str | Path, safe_serialization: bool = True) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Write this pipeline as a model folder.

        Args:
            save_directory: the folder.
            safe_serialization: as safetensors; they are the only kind.

        Raises:
            ConfigError: pickles are asked for.
            CheckpointError: a part of a kind that a model folder cannot hold.
        """
        if not safe_serialization:
            raise ConfigError("safe_serialization=False would write pickles, which run code: leave it out.")
        parts = {name: getattr(part, "_orig_mod", part) for name, part in self.components.items()}  # of torch.compile
        save_model(save_directory, **parts, **self.parameters)

    @classmethod
    def from_pretrained(  # pyright: ignore[reportIncompatibleMethodOverride]
        cls,
        pretrained_model_name_or_path: str | Path,
        torch_dtype: Dtype = None,
        device: str | torch.device = "cpu",
        text_model: str | None = None,
        dtype: Dtype = None,
        device_map: str | None = None,
        **options: Any,
    ) -> Self:
        """Load the pipeline of a run or model folder, or of a checkpoint of the published package.

        Args:
            pretrained_model_name_or_path: a run folder of stage 2, a model folder written by one or by
                `save_pretrained`, or a published .safetensors file or folder. Nothing is downloaded.
            torch_dtype: of the networks, or of each by its name and of the others by "default"; as stored by default.
            device: where they go.
            text_model: folder or hub name of the DistilBERT whose tokenizer a published checkpoint leaves out.
            dtype: newer name of `torch_dtype`.
            device_map: diffusers' name of `device`.
            options: parts, statistics or a size to take instead of those in the folder, by their names in the
                constructor; and options of `DiffusionPipeline.from_pretrained` on downloads, without effect.

        Raises:
            CheckpointError: the folder holds no complete model.
            ConfigError: an option that a model folder cannot fulfil.
        """
        given = {name: options.pop(name) for name in (*COMPONENTS, *PARAMETERS) if name in options}
        check_options(options)
        if dtype is not None and torch_dtype is not None:
            raise ConfigError("dtype and torch_dtype are one option with two names: give one of them.")
        path = pretrained_model_name_or_path
        index, components = load_model(path, Choices(text_model=text_model), [n for n in COMPONENTS if n not in given])
        own_words = getattr(given.get("text_encoder"), "tokenizer", None)
        components |= ({} if own_words is None else {"tokenizer": own_words}) | given
        if missing := [name for name in VAE if name not in components]:
            raise CheckpointError(f"{index.folder} has no {' and no '.join(missing)}: copy the whole folder.")
        if missing := [name for name in ("flow_processor", "text_encoder", "tokenizer") if name not in components]:
            raise CheckpointError(
                f"{index.folder} has no {' and no '.join(missing)}: a VAE alone cannot draw from prompts. "
                "Train a flow on it: python train.py stage=flow vae=<this run>."
            )
        pipeline = cls(**index.parameters() | components)
        for name, part in pipeline.components.items():
            if isinstance(part, nn.Module):
                part.to(dtype=dtype_of(name, torch_dtype if dtype is None else dtype))
        return pipeline.to(device_of(device, device_map))

    def to(self, *args: Any, **kwargs: Any) -> Self:
        """Move and cast the networks; the arguments are those of `DiffusionPipeline.to`."""
        return super().to(*args, **kwargs | {"silence_dtype_warnings": True})  # float16 works on CPUs too

    @property
    def dtype(self) -> torch.dtype:
        """The type of the flow network's weights."""
        return self.flow_processor.dtype


def check_scheduler(scheduler: Any) -> None:
    """Refuse a scheduler that cannot draw with our flows."""
    if reason := unfitness(scheduler):
        raise ConfigError(f"scheduler: {reason}.")
