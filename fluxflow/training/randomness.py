"""Noise that is the same whenever a run is repeated or continued, and differs by rank, step and purpose."""

import hashlib

import torch


def step_generator(device: torch.device | str, *identity: int | str) -> torch.Generator:
    """A generator whose seed is a hash of what identifies the draw: seed, rank, step, purpose…"""
    digest = hashlib.blake2b(repr(identity).encode(), digest_size=8).digest()
    generator = torch.Generator(device)
    generator.manual_seed(int.from_bytes(digest, "little") >> 1)  # 63 bits: every backend takes them
    return generator
