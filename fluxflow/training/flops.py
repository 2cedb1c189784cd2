"""Floating-point operations of training steps, counted by torch on the meta device, where tensors have shapes alone.

What counts is the work that the networks ask of matrix units: convolutions, linear layers and attention, in PyTorch's
own forms, forward and backward. What is computed again to save memory does not count.
"""

import copy
from collections.abc import Callable
from typing import Any

import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fluxflow.kernels import fast
from fluxflow.losses import r1_penalty
from fluxflow.models.discriminators import PatchDiscriminator
from fluxflow.models.flow import FluxFlowProcessor
from fluxflow.models.vae import FluxCompressor, FluxExpander


def counted(run: Callable[[], object]) -> int:
    """The operations of `run`; those of attention are the two products that it consists of."""
    with fast(False), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


def on_meta(network: nn.Module) -> Any:
    """A copy in training mode whose weights have shapes alone; to build one anew would initialise it, for seconds."""
    tensors = [*network.parameters(), *network.buffers()]
    memo: dict[int, Any] = {id(tensor): torch.empty_like(tensor, device="meta") for tensor in tensors}
    memo |= {id(p): nn.Parameter(memo[id(p)]) for p in network.parameters()}
    copied: Any = copy.deepcopy(network, memo).train()
    if hasattr(copied, "activation_checkpointing"):
        copied.activation_checkpointing = False
    return copied


def vae_step(
    compressor: FluxCompressor,
    expander: FluxExpander,
    discriminator: PatchDiscriminator | None,
    shape: tuple[int, int, int, int],
    r1: bool,
) -> int:
    """A step of stage 1.

    Args:
        compressor, expander: the VAE.
        discriminator: None where it takes no part yet.
        shape: of the images, (B, C, H, W).
        r1: with the penalty on its gradient.
    """
    encode, decode = on_meta(compressor), on_meta(expander)
    critic = None if discriminator is None else on_meta(discriminator)
    with torch.device("meta"):
        image = torch.empty(shape)

        def step() -> None:
            packed, mu, _ = encode(image, training=True)
            fake = decode(packed, latent_size=(mu.shape[2], mu.shape[3]))
            loss = fake.sum()
            if critic is not None:
                context = packed[:, :-1, : mu.shape[1]].mean(dim=1).detach()
                critic(torch.cat([image, fake.detach()]), torch.cat([context, context])).sum().backward()
                if r1:
                    real = image.clone().requires_grad_(True) * 1  # the counter does not take the gradient of a leaf
                    r1_penalty(critic(real, context), real).backward()
                critic.requires_grad_(False)
                loss = loss + critic(fake, context).sum()
            loss.backward()

        return counted(step)


def flow_step(
    compressor: FluxCompressor,
    flow: FluxFlowProcessor,
    projection: nn.Module,
    features: tuple[int, ...],
    shape: tuple[int, int, int, int],
    cached: bool,
) -> int:
    """A step of stage 2, the frozen language model left out.

    Args:
        compressor: of the frozen VAE.
        flow: the network.
        projection: the trained end of the text encoder.
        features: shape of its input.
        shape: of the images, (B, C, H, W), or of the posterior's maps where they are cached.
        cached: whether they are.
    """
    frozen, network, read = on_meta(compressor).requires_grad_(False), on_meta(flow), on_meta(projection)
    with torch.device("meta"):
        given = torch.empty(shape)

        def step() -> None:
            latent = given if cached else frozen.posterior(given)[0]
            packed = frozen.packet(latent)
            text = read(torch.empty(features))
            network(packed, text, torch.empty(shape[0]), (latent.shape[2], latent.shape[3])).sum().backward()

        return counted(step)
