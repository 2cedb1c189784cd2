"""Checkpoints of the published package: reading, writing, and what they tell of themselves."""

from fluxflow.checkpoint.published.reader import load_published, published_arguments, published_index
from fluxflow.checkpoint.published.sizes import Choices

__all__ = ["Choices", "load_published", "published_arguments", "published_index"]
