"""Captioned images: sources, transforms, streams, the cache of latents, DataModules, the prepare command."""

from typing import TYPE_CHECKING

from fluxflow.lazy import exports

if TYPE_CHECKING:
    from fluxflow.data.datamodule import DataModule
    from fluxflow.data.latents.latent_datamodule import LatentDataModule
    from fluxflow.data.shapes.reader import ShapesReader
    from fluxflow.data.sources.folder import FolderReader
    from fluxflow.data.sources.shards import ShardReader, demo_shards

__all__ = ["DataModule", "FolderReader", "LatentDataModule", "ShapesReader", "ShardReader", "demo_shards"]
__getattr__ = exports(
    __name__,
    {
        "DataModule": "data.datamodule",
        "FolderReader": "data.sources.folder",
        "LatentDataModule": "data.latents.latent_datamodule",
        "ShapesReader": "data.shapes.reader",
        "ShardReader": "data.sources.shards",
        "demo_shards": "data.sources.shards",
    },
)
