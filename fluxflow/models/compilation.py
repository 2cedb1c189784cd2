"""torch.compile of what a training spends its time in."""

import os
import shutil

import torch
from torch import nn

from fluxflow.errors import ConfigError
from fluxflow.models.flow import FlowBlock
from fluxflow.models.vae import FluxCompressor, FluxExpander

SHAPES = 64  # of batches, in training and in evaluation, that get code of their own; more run uncompiled


def check_compiler() -> None:
    """Refuse compilation before it begins.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    if not any(map(shutil.which, (os.environ.get("CXX", "g++"), "clang++"))):
        raise ConfigError("compile=true needs a C++ compiler: install g++, or name one in the variable CXX.")


def compile_networks(module: nn.Module) -> None:
    """Let the trained networks below `module` be compiled at their first call, for the shapes that they meet.

    Compiled are the VAE's networks, and of the flow its blocks, which share their code. Names and values of the weights
    stay, so that checkpoints do not know of it. The discriminator is left alone: its gradients are differentiated
    again for R1, which compiled code cannot do; so is the VAE of stage 2, which is frozen.

    Raises:
        ConfigError: there is no C++ compiler.
    """
    check_compiler()
    torch._dynamo.config.recompile_limit = SHAPES
    for network in module.modules():
        trained = any(parameter.requires_grad for parameter in network.parameters())
        if trained and isinstance(network, FluxCompressor | FluxExpander | FlowBlock):
            network.compile(dynamic=False)
