"""Captioned pictures: reading shards and folders, transforms, the Lightning DataModule and the prepare command."""

from .datamodule import DataModule

__all__ = ["DataModule"]
