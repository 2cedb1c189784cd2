"""What can be known of a training before it starts: that weights fit, networks take the pictures, optimizers step."""

import os
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningDataModule, LightningModule
from lightning.fabric.utilities.exceptions import MisconfigurationException  # noqa: F401 (commands/train.py reports it)
from lightning.pytorch.loggers import Logger
from torch import Tensor, nn
from torch.func import functional_call

from fluxflow.errors import ConfigError, shorten

KINDS = {"data": LightningDataModule, "stage": LightningModule, "callbacks": Callback, "logger": Logger}


def check_kind(key: str, built: Any) -> None:
    """Refuse an object that its part of a config has no use for.

    Args:
        key: where it stands, dotted.
        built: the object.
    """
    kind = KINDS[key.partition(".")[0]]
    if not isinstance(built, kind):
        raise ConfigError(f"{key} is a {type(built).__name__}, which is no {kind.__name__}.")


def check_memory(sketches: dict[str, nn.Module]) -> None:
    """Refuse networks whose weights alone exceed the free memory of this machine, before it runs out.

    Args:
        sketches: the networks, on the meta device.
    """
    needed = {name: sum(p.numel() * p.element_size() for p in net.parameters()) for name, net in sketches.items()}
    free = free_memory()
    if sum(needed.values()) > free:
        parts = ", ".join(f"{name} {size / 1e9:.1f} GB" for name, size in needed.items())
        raise ConfigError(f"The weights alone take more than the {free / 1e9:.1f} GB that are free ({parts}): "
                          "take a smaller model=, or smaller sizes of it.")  # fmt: skip


def free_memory() -> int:
    """Return the bytes of RAM that this process can still take, of the machine or of its container."""
    limits = [os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")]
    table = Path("/proc/meminfo")
    if table.is_file():
        lines = dict(line.split(":", 1) for line in table.read_text(encoding="ascii").splitlines())
        limits.append(int(lines["MemAvailable"].split()[0]) * 1024)
    container = Path("/sys/fs/cgroup/memory.max")
    if container.is_file() and (limit := container.read_text(encoding="ascii").strip()).isdigit():
        limits.append(int(limit))
    return min(limits)


def check_sizes(module: Any, image_size: int) -> None:
    """Refuse pictures that are too small for the networks of a stage, by shapes alone.

    Args:
        module: of the stage.
        image_size: side of the pictures in pixels.
    """
    space = module.latent_space
    image = torch.empty(1, 3, image_size, image_size, device="meta")  # one, as previews draw them
    try:
        with torch.no_grad():
            size = space.latent_size(image_size, image_size)
            packed = _shape(space.compressor, image)
            _shape(space.expander, packed, latent_size=size)
            if getattr(module, "gan_weight", 0) > 0:
                _shape(module.discriminator, image, packed[:, 0, : space.compressor.config["d_model"]])
    except (RuntimeError, ValueError) as error:
        raise ConfigError(
            f"The networks cannot work on pictures of data.image_size={image_size} ({shorten(str(error), 200)}): take "
            "larger ones, or a smaller model.downscales or model.disc_depth."
        ) from error


def check_optimizers(module: Any) -> None:
    """Refuse optimizers that cannot be built, or cannot make a step by a gradient alone."""
    for key in ("optimizer", "discriminator_optimizer"):
        make_optimizer = getattr(module, f"make_{key}", None)
        if make_optimizer is None:
            continue
        weight = nn.Parameter(torch.ones(2, 2))
        weight.grad = torch.zeros(2, 2)
        try:
            make_optimizer([weight]).step()
        except Exception as error:  # those of torch.optim have no kind of their own
            raise ConfigError(f"stage.{key} cannot be used: {shorten(str(error), 200)}") from error


def _shape(network: nn.Module, *inputs: Tensor, **options: Any) -> Tensor:
    """Return the output of a network on the meta device; the network itself stays as it is."""
    state = {name: tensor.to("meta") for name, tensor in [*network.named_parameters(), *network.named_buffers()]}
    return functional_call(network, state, inputs, options)
