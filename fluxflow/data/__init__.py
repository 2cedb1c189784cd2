"""Captioned pictures: reading shards and folders, transforms, the Lightning DataModule and the prepare command."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .datamodule import DataModule
    from .latent_datamodule import LatentDataModule

__all__ = ["DataModule", "LatentDataModule"]


def __getattr__(name: str) -> type:
    # Lightning comes with DataModule alone: sampling and the prepare command read pictures without it
    if name == "DataModule":
        from .datamodule import DataModule

        return DataModule
    if name == "LatentDataModule":
        from .latent_datamodule import LatentDataModule

        return LatentDataModule
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
