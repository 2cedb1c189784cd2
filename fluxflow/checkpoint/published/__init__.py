"""Checkpoints of the published package."""
