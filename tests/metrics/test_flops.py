"""Our count of operations against torch's counter."""

import pytest
import torch
from torch import nn
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from fluxflow.kernels import fast
from fluxflow.losses import r1_penalty
from fluxflow.metrics import flops
from fluxflow.models import FluxCompressor, FluxExpander, FluxFlowProcessor, PatchDiscriminator
from fluxflow.versions import VERSIONS

BATCH, HEIGHT, WIDTH = 2, 16, 24
TOKENS = HEIGHT * WIDTH // 16


def counted(run) -> int:
    """Operations that torch counts in its own forms of all layers; attention as the products that it consists of."""
    with fast(False), sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
        run()
    return counter.get_total_flops()


@pytest.fixture(params=VERSIONS)
def version(request: pytest.FixtureRequest) -> str:
    return request.param


def test_the_vae(version: str) -> None:
    compressor = FluxCompressor(d_model=24, downscales=2, attn_layers=2, attn_heads=4, attn_ff_mult=3, version=version)
    expander = FluxExpander(24, 2, version=version)
    image = torch.zeros(BATCH, 3, HEIGHT, WIDTH)
    ours = flops.posterior(compressor.config, BATCH, HEIGHT, WIDTH)
    ours += flops.packet(compressor.config, BATCH, TOKENS) + flops.expander(expander.config, BATCH, TOKENS)

    def forward() -> torch.Tensor:
        return expander(compressor(image), latent_size=(HEIGHT // 4, WIDTH // 4))

    assert counted(forward) == ours.forward
    assert counted(lambda: forward().sum().backward()) == ours.training


def test_the_flow(version: str) -> None:
    for tokens in (TOKENS, 1):
        size = {"vae_dim": 8, "embedding_size": 20, "n_head": 2, "n_layers": 3, "ctx_tokens": 4}
        network = FluxFlowProcessor(d_model=16, **size, version=version)
        channels = network.vae_to_dmodel.in_features
        packed, times = torch.zeros(BATCH, tokens + 1, channels), torch.zeros(BATCH)
        text = torch.zeros(BATCH, 20, requires_grad=True)
        ours = flops.flow(network.config, BATCH, tokens)

        def forward(given=(packed, text, times, (tokens, 1)), network=network) -> torch.Tensor:
            return network(*given)

        assert counted(forward) == ours.forward
        assert counted(lambda: forward().sum().backward()) == ours.training


@pytest.mark.parametrize("context", [0, 6])
def test_the_discriminator(version: str, context: int) -> None:
    critic = PatchDiscriminator(base_ch=4, depth=2, ctx_dim=context, version=version)
    image = torch.zeros(BATCH, 3, HEIGHT, WIDTH)
    vector = torch.zeros(BATCH, context) if context else None
    pair = torch.cat([image, image]), None if vector is None else torch.cat([vector, vector])
    ours = flops.discriminator(critic.config, BATCH, HEIGHT, WIDTH)
    assert counted(lambda: critic(image, vector)) == ours.both.forward
    own = counted(lambda: critic(*pair).sum().backward())
    critic.requires_grad_(False)
    drawn = image.clone().requires_grad_(True)
    verdict = counted(lambda: critic(drawn, vector).sum().backward())
    assert own + verdict == flops.gan_step(critic.config, BATCH, HEIGHT, WIDTH, r1=False)


def test_r1(version: str) -> None:
    """torch takes a way back more, with the zeros that come from the slopes of the leaky ReLUs; it ends at the head."""
    critic = PatchDiscriminator(base_ch=4, depth=2, ctx_dim=6, version=version)
    leaf, vector = torch.zeros(BATCH, 3, HEIGHT, WIDTH, requires_grad=True), torch.zeros(BATCH, 6)
    real = leaf * 1  # torch's counter does not take the gradient of a leaf
    found = counted(lambda: r1_penalty(critic(real, vector), real).backward())
    args = (critic.config, BATCH, HEIGHT, WIDTH)
    ours = flops.gan_step(*args, r1=True) - flops.gan_step(*args, r1=False)
    head = counted(lambda: critic.head(torch.zeros(BATCH, critic.head.in_channels, HEIGHT // 4, WIDTH // 4)))
    zeros = 2 * (flops.discriminator(*args).images.forward - head)
    strided = VERSIONS[version].light_discriminator  # whose second derivative torch takes another way
    assert found == pytest.approx(ours + zeros, rel=0.05 if strided else 0)


def test_the_projection_of_the_text() -> None:
    layer = nn.Sequential(nn.Linear(16, 2560), nn.Unflatten(1, (5, 512)), nn.Linear(512, 12))
    ours = flops.text_projection(16, 12, 3)
    assert ours.forward == counted(lambda: layer(torch.zeros(3, 16)))
