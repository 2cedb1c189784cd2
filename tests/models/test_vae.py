import pytest
import torch
from torch import Tensor, nn

from fluxflow.kernels.conv import Conv2dStride2, ConvTranspose2dStride2
from fluxflow.models.activations import IDENTITY_MIDDLE
from fluxflow.models.packet import pack
from fluxflow.models.vae import FluxCompressor, FluxExpander, curved
from tests import golden
from tests.oracles import activate


def tiny_compressor(**options: bool) -> FluxCompressor:
    return FluxCompressor(d_model=8, downscales=2, attn_layers=2, attn_heads=2, **options)


def scrambled(network: nn.Module) -> nn.Module:
    """The network with its parameters moved off their initial values."""
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
    return network


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_compressor_gives_the_published_outputs(version):
    compressor = golden.load(FluxCompressor(**golden.arguments("compressor", version)), "compressor", version)
    data = golden.vectors(version)
    with torch.no_grad():
        packed, mu, logvar = compressor(data["in.image"], training=True, eps=torch.zeros(2, 8, 8, 12))
    golden.assert_near(mu, data["out.mu"])
    golden.assert_near(logvar, data["out.logvar"])
    golden.assert_near(packed, data["out.packed"])


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_expander_gives_the_published_outputs(version):
    expander = golden.load(FluxExpander(**golden.arguments("expander", version)), "expander", version)
    data = golden.vectors(version)
    with torch.no_grad():
        golden.assert_near(expander(data["out.packed"]), data["out.image"])
        golden.assert_near(expander(data["out.packed"], use_context=False), data["out.image_without_context"])


def test_noise_enters_by_reparameterisation():
    """Without attention, tokens(eps) − tokens(0) = eps·exp(log σ² / 2)."""
    compressor = scrambled(FluxCompressor(d_model=8, downscales=2, attn_layers=0, attn_heads=2))
    image, eps = torch.randn(2, 3, 16, 24), torch.randn(2, 8, 4, 6)
    noisy, _, logvar = compressor(image, training=True, eps=eps)
    quiet = compressor(image, eps=torch.zeros_like(eps))
    expected = (eps * (0.5 * logvar).exp()).flatten(2).transpose(1, 2)
    torch.testing.assert_close((noisy - quiet)[:, :-1], expected, atol=1e-5, rtol=1e-4)
    assert torch.equal(noisy[:, -1], quiet[:, -1])


def test_posterior_is_standard_normal_noise_when_none_is_given():
    compressor = tiny_compressor()
    image = torch.randn(1, 3, 16, 16)
    torch.manual_seed(3)
    drawn = compressor(image)
    torch.manual_seed(3)
    assert torch.equal(drawn, compressor(image, eps=torch.randn(1, 8, 4, 4)))


def test_channels_grow_evenly_and_only_the_first_convolution_of_a_stage_lacks_a_bias():
    compressor = FluxCompressor(d_model=128)
    grown = [halve[0].out_channels // 5 for halve in compressor.encoder_z]
    steps = [b - a for a, b in zip([5, *grown], grown, strict=False)]
    assert grown[-1] == 128
    assert max(steps) - min(steps) <= 1
    assert all(refine[0].bias is None for refine in compressor.encoder_first_step)
    assert all(halve[0].bias is not None for halve in compressor.encoder_z)


@pytest.mark.parametrize("size", [(16, 16), (16, 40), (64, 8)])
def test_shapes_and_size_token_follow_the_image(size):
    compressor, expander = tiny_compressor(), FluxExpander(d_model=8, upscales=2)
    image = torch.randn(3, 3, *size)
    packed = compressor(image)
    height, width = size[0] // 4, size[1] // 4
    assert packed.shape == (3, height * width + 1, 8)
    assert packed[:, -1].tolist() == [[height / 1024, width / 1024, 0, 0, 0, 0, 0, 0]] * 3
    assert expander(packed).shape == image.shape


def test_latent_size_given_equals_latent_size_read():
    expander = FluxExpander(d_model=8, upscales=2)
    packed = pack(torch.randn(2, 15, 8), (3, 5), 1024)
    assert torch.equal(expander(packed), expander(packed, latent_size=(3, 5)))


def test_mixed_sizes_are_refused():
    packed = torch.cat([pack(torch.randn(1, 15, 8), size, 1024) for size in [(3, 5), (5, 3)]])
    with pytest.raises(ValueError, match="one size"):
        FluxExpander(d_model=8, upscales=2)(packed)


def test_images_of_a_batch_do_not_touch():
    compressor, expander = tiny_compressor().double(), FluxExpander(d_model=8, upscales=2).double()
    image, eps = torch.randn(3, 3, 16, 16).double(), torch.randn(3, 8, 4, 4).double()
    together = expander(compressor(image, eps=eps))
    alone = torch.cat([expander(compressor(image[i : i + 1], eps=eps[i : i + 1])) for i in range(3)])
    torch.testing.assert_close(together, alone)


def test_output_colours_stay_on_their_curve():
    """The RGB curve starts with control points −1, 0.25, 0.75 and 1, so pixels cannot leave [−1, 1]."""
    expander = FluxExpander(d_model=8, upscales=2)
    features = 10 * torch.randn(1, 3, 5, 5)
    t = activate(features, "sigmoid")
    expected = -((1 - t) ** 3) + 0.75 * (1 - t) ** 2 * t + 2.25 * (1 - t) * t**2 + t**3
    torch.testing.assert_close(expander.rgb_activation(features), expected, atol=1e-6, rtol=1e-5)
    image = expander(pack(20 * torch.randn(2, 16, 8), (4, 4), 1024)).detach()
    assert float(image.abs().max()) <= 1


@pytest.mark.parametrize("kind", ["compressor", "expander"])
def test_checkpointing_changes_neither_outputs_nor_gradients(kind):
    def build(checkpointing: bool) -> nn.Module:
        if kind == "compressor":
            return tiny_compressor(activation_checkpointing=checkpointing)
        return FluxExpander(d_model=8, upscales=2, activation_checkpointing=checkpointing)

    plain, frugal = build(False).train(), build(True).train()
    frugal.load_state_dict(scrambled(plain).state_dict())
    x = torch.randn(2, 3, 16, 16) if kind == "compressor" else pack(torch.randn(2, 16, 8), (4, 4), 1024)
    options = {"eps": torch.randn(2, 8, 4, 4)} if kind == "compressor" else {}
    results = []
    for network in (plain, frugal):
        leaf = x.clone().requires_grad_()
        y = network(leaf, **options)
        trained = [parameter for parameter in network.parameters() if parameter.requires_grad]
        results.append([y, *torch.autograd.grad(y.square().sum(), [leaf, *trained])])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


def kept_bytes(network: nn.Module, x: Tensor) -> int:
    """What one forward keeps for the backward, the parameters aside."""
    parameters = {parameter.data_ptr() for parameter in network.parameters()}
    kept: dict[int, int] = {}

    def pack_hook(tensor: Tensor) -> Tensor:
        if tensor.data_ptr() not in parameters:
            kept[tensor.data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack_hook, lambda tensor: tensor):
        y = network(x)
    assert y.requires_grad
    return sum(kept.values())


def test_checkpointing_keeps_less():
    x = pack(torch.randn(2, 16, 64), (4, 4), 1024)
    plain, frugal = (FluxExpander(d_model=64, upscales=2, activation_checkpointing=c).train() for c in (False, True))
    assert kept_bytes(frugal, x) < 0.5 * kept_bytes(plain, x)


@pytest.mark.parametrize("network", [tiny_compressor(), FluxExpander(d_model=8, upscales=2)])
def test_config_rebuilds_the_network(network):
    twin = type(network)(**network.config)
    twin.load_state_dict(network.state_dict())
    assert twin.config == network.config


def test_gradients_reach_every_trained_parameter():
    """The expander's context mixer is frozen: nothing depends on it, published checkpoints carry it."""
    compressor, expander = tiny_compressor(), FluxExpander(d_model=8, upscales=2)
    packed, mu, logvar = compressor(torch.randn(2, 3, 16, 16), training=True)
    (expander(packed).square().mean() + mu.square().mean() + logvar.square().mean()).backward()
    assert [name for name, parameter in compressor.named_parameters() if parameter.grad is None] == []
    silent = {name for name, parameter in expander.named_parameters() if parameter.grad is None}
    assert silent == {name for name, parameter in expander.named_parameters() if not parameter.requires_grad}
    assert {name.split(".")[0] for name in silent} == {"context_mixer"}


CURVED = [
    (nn.Conv2d(24, 120, 3, padding=1), (4, 24, 48, 48)),
    (Conv2dStride2(24, 120, 8, padding=3), (4, 24, 64, 64)),
    (nn.Conv2d(24, 120, 5, padding=4, dilation=2), (4, 24, 48, 48)),
    (nn.Linear(64, 320), (4, 500, 64)),
    (ConvTranspose2dStride2(24, 120, 16, padding=7), (4, 24, 24, 24)),
]


def inner(block: nn.Module, x: Tensor) -> Tensor:
    """The output, away from the padded edges of a map."""
    with torch.no_grad():
        y = block(x)
    return y[(..., slice(8, -8), slice(8, -8)) if y.dim() == 4 else ...]


@pytest.mark.parametrize(("layer", "shape"), CURVED)
def test_curved_layers_start_by_passing_a_smooth_signal(layer, shape):
    """A constant signal passes around the curve's middle, about as large as it came, and can be read off."""
    torch.manual_seed(0)
    count = 400
    values = torch.randn(count, shape[1] if len(shape) == 4 else shape[2])
    x = values[:, :, None, None].expand(-1, -1, *shape[2:]) if len(shape) == 4 else values[:, None]
    y = inner(curved(layer), x)
    passed = y.mean(dim=(2, 3)) if y.dim() == 4 else y[:, 0]
    assert passed.mean().item() == pytest.approx(IDENTITY_MIDDLE, abs=0.4)
    assert 0.5 < passed.std(dim=0).mean().item() < 1.5
    read = torch.cat([passed, torch.ones(count, 1)], dim=1)
    residual = values - read @ torch.linalg.lstsq(read, values).solution
    assert residual.square().mean() < 0.35 * values.square().mean()


@pytest.mark.parametrize(("layer", "shape"), CURVED)
def test_curved_layers_start_without_regard_for_the_mean(layer, shape):
    block, x = curved(layer), torch.randn(shape)
    torch.testing.assert_close(inner(block, x + 3), inner(block, x), atol=1e-4, rtol=1e-4)


def test_curved_layers_that_start_free_are_silu_of_a_mix():
    layer = nn.Linear(16, 80)
    torch.manual_seed(0)
    block, x = curved(layer, identity=False), torch.randn(500, 16)
    mix = layer.weight.chunk(5)[1].detach()
    similarity = torch.cosine_similarity(block(x).flatten(), torch.nn.functional.silu(x @ mix.T).flatten(), dim=0)
    assert similarity > 0.9
