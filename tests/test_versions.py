import pickle

import pytest
import torch
from torch import nn

from fluxflow.commands.configuration import MODEL_LAYOUTS
from fluxflow.errors import ConfigError
from fluxflow.models import FluxCompressor, FluxExpander, FluxFlowProcessor, LatentSpace, PatchDiscriminator
from fluxflow.models.flow import LAYOUTS
from fluxflow.versions import VERSIONS, version_of


def networks(version: str) -> tuple[FluxCompressor, FluxExpander, FluxFlowProcessor, PatchDiscriminator]:
    torch.manual_seed(0)
    attention = {} if VERSIONS[version].residual else {"attn_layers": 1, "attn_heads": 2}
    return (
        FluxCompressor(d_model=8, downscales=2, version=version, **attention),
        FluxExpander(8, 2, version=version),
        FluxFlowProcessor(16, 8, 12, n_head=2, n_layers=2, version=version),
        PatchDiscriminator(base_ch=4, depth=2, ctx_dim=8, version=version),
    )


@pytest.mark.parametrize("version", VERSIONS)
def test_each_version_trains(version: str) -> None:
    """A step of both stages has finite gradients, and the latent space knows the width of its packet."""
    compressor, expander, flow, discriminator = networks(version)
    last = flow.tokens.outputs if VERSIONS[version].words else flow.dmodel_to_vae
    nn.init.normal_(last.weight, std=0.1)
    image = torch.rand(2, 3, 16, 24) * 2 - 1
    packed, mu, logvar = compressor(image, training=True)
    assert packed.shape[2] == 8 + VERSIONS[version].context_channels
    drawn = expander(packed)
    text = torch.randn(2, 5, 12) if VERSIONS[version].words else torch.randn(2, 12)
    velocity = flow(packed.detach(), text, torch.rand(2))
    logits = discriminator(nn.functional.interpolate(drawn, scale_factor=2), packed[:, 0, :8])
    (drawn.square().mean() + mu.mean() + logvar.mean() + velocity.square().mean() + logits.mean()).backward()
    for network in (compressor, expander, flow, discriminator):
        for name, parameter in network.named_parameters():
            assert parameter.grad is None or parameter.grad.isfinite().all(), name
    assert LatentSpace(compressor, expander).reconstruct(image).shape == image.shape


@pytest.mark.parametrize("version", VERSIONS)
def test_configs_rebuild_each_version(version: str) -> None:
    for network in networks(version):
        twin = type(network)(**network.config)
        twin.load_state_dict(network.state_dict())
        assert twin.config["version"] == version


def test_unknown_names_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"unknown model version '0\.4\.0': choose one of 0\.3\.0, "):
        version_of("0.4.0")
    with pytest.raises(ConfigError, match="unknown layout 'linear': choose one of planar, published"):
        FluxFlowProcessor(16, 8, 12, n_head=2, n_layers=1, layout="linear")


def test_configs_know_the_layouts() -> None:
    assert tuple(LAYOUTS) == MODEL_LAYOUTS


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_can_be_sent_to_another_process(layout: str) -> None:
    flow = FluxFlowProcessor(16, 8, 12, n_head=2, n_layers=1, layout=layout)
    assert pickle.loads(pickle.dumps(flow)).config == flow.config


@pytest.mark.parametrize(("layout", "between"), [("planar", 500), ("published", 499)])
def test_times_of_the_schedule_meet_their_row_and_others_the_layouts(layout: str, between: int) -> None:
    flow = FluxFlowProcessor(16, 8, 12, n_head=2, n_layers=1, layout=layout)
    seen: list[torch.Tensor] = []
    flow.time_embed[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    packed = torch.zeros(1001, 2, 8)
    packed[:, -1, :2] = 1 / 1024
    flow(packed, torch.zeros(1001, 12), torch.cat([torch.arange(1000), torch.tensor([499.7])]) / 999)
    assert seen[0].tolist() == [*range(1000), between]
