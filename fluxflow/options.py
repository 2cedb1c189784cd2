"""Options of diffusers' `from_pretrained` that a model folder takes in its own way, or refuses."""

from collections.abc import Mapping
from typing import Any

import torch

from fluxflow.errors import ConfigError

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
