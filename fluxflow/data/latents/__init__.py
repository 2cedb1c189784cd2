"""The cache of latents and text features: writing it, reading it, its DataModule."""
