import pytest
import torch
from torch import Tensor, nn

from fluxflow.models.attention import rotary_2d
from fluxflow.models.flow import FlowBlock, FluxFlowProcessor, time_code
from fluxflow.models.packet import pack
from tests import golden
from tests.oracles import activate, de_casteljau


def tiny_flow(**options: bool) -> FluxFlowProcessor:
    flow = FluxFlowProcessor(d_model=16, vae_dim=6, embedding_size=10, n_head=2, n_layers=3, **options)
    nn.init.normal_(flow.dmodel_to_vae.weight, std=0.3)  # it starts at zero, and with it the velocity
    for layer in flow.context_injection.modules():
        if isinstance(layer, nn.Linear):
            nn.init.normal_(layer.weight, std=0.1)
    return flow


def inputs(size: tuple[int, int] = (3, 4), batch: int = 2) -> tuple[Tensor, Tensor, Tensor]:
    packed = pack(torch.randn(batch, size[0] * size[1], 6), size, 1024)
    return packed, torch.randn(batch, 10), torch.rand(batch)


def pillar_oracle(pillar: nn.Module, x: Tensor) -> Tensor:
    """Three times SiLU(Wx + b), in float64."""
    weights = [parameter.detach().double() for parameter in pillar.parameters()]
    assert len(weights) == 6
    for weight, bias in zip(weights[::2], weights[1::2], strict=True):
        x = activate(x @ weight.T + bias, "silu")
    return x


@pytest.mark.parametrize("version", golden.VERSIONS)
def test_published_layout_gives_the_published_velocity(version):
    flow = FluxFlowProcessor(**golden.arguments("flow_processor", version))
    golden.load(flow, "flow_processor", version)
    data = golden.vectors(version)
    with torch.no_grad():
        golden.assert_near(flow(data["in.noisy"], data["in.text"], data["in.timestep"]), data["out.velocity"])


def normalise(x: Tensor) -> Tensor:
    """Mean 0 and variance 1 over the channels."""
    x = x - x.mean(dim=-1, keepdim=True)
    return x / (x.square().mean(dim=-1, keepdim=True) + 1e-5).sqrt()


@pytest.mark.parametrize("version_has_text", [False, True])
@pytest.mark.parametrize("layout", ["planar", "published"])
@pytest.mark.parametrize("chained", [False, True])
def test_block_ends_in_a_curve_over_its_pillars(chained, layout, version_has_text):
    """With attention, text and feed-forward silenced, a block is de Casteljau over the pillars of the gated tokens."""
    block = FlowBlock(8, 2, version_has_text, layout)
    silent = [block.self_attn.out_proj, block.cross_attn.out_proj, block.ffn[0]]
    for layer in silent:
        nn.init.zeros_(layer.weight)
        nn.init.zeros_(layer.bias)
    x, text, condition = torch.randn(2, 6, 8), torch.randn(2, 1, 8), torch.randn(2, 1, 8)
    previous = torch.randn(4, 2, 6, 8) if chained else None
    y, points = block(x, text, rotary_2d(2, 3, 4, x.device), previous, condition)
    gate, expected, told = activate(x.double(), "sigmoid"), [], torch.zeros(1)
    if version_has_text:
        told = block.pillar_cross_attn(text)
    for number in range(4):
        film = getattr(block, f"film_p{number}")(condition) if version_has_text else torch.zeros(2, 1, 16)
        gamma, beta = film.double().chunk(2, dim=-1)
        carried = 1.0 if previous is None else previous[number]
        if layout == "planar":
            gated = normalise(gate * carried) * (1 + gamma) + beta
        else:
            gated = (gate * (1 + gamma) + beta) * carried
        expected.append(pillar_oracle(getattr(block, f"p{number}"), gated) + told)
    for point, reference in zip(points, expected, strict=True):
        torch.testing.assert_close(point.double(), reference, atol=3e-6, rtol=1e-5)
    if layout == "planar":
        reference = de_casteljau(gate, expected)
    else:
        five = torch.cat([x.double(), *expected], dim=-1).unflatten(-1, (8, 5))  # neighbours make a curve
        reference = de_casteljau(activate(five[..., 0], "sigmoid"), list(five[..., 1:].unbind(-1)))
    torch.testing.assert_close(y.double(), reference, atol=3e-6, rtol=1e-5)


@pytest.mark.parametrize("size", [(3, 4), (1, 1), (1, 5), (8, 2)])
def test_size_token_passes_through(size):
    packed, text, time = inputs(size)
    velocity = tiny_flow()(packed, text, time)
    assert velocity.shape == packed.shape
    assert torch.equal(velocity[:, -1], packed[:, -1])


def test_latent_size_given_equals_latent_size_read():
    flow = tiny_flow()
    packed, text, time = inputs()
    assert torch.equal(flow(packed, text, time), flow(packed, text, time, latent_size=(3, 4)))
    assert not torch.equal(flow(packed, text, time), flow(packed, text, time, latent_size=(4, 3)))


def test_mixed_sizes_are_refused():
    packed, text, time = inputs()
    packed[1] = pack(packed[1:, :-1], (4, 3), 1024)[0]
    with pytest.raises(ValueError, match="one size"):
        tiny_flow()(packed, text, time)


def test_every_time_step_has_its_own_row():
    """t / 999 for t = 0…999 reaches row t of the time embedding."""
    flow = tiny_flow()
    seen: list[Tensor] = []
    flow.time_embed[0].register_forward_pre_hook(lambda _, arguments: seen.append(arguments[0]))
    packed, text, _ = inputs((1, 2), batch=1000)
    flow(packed, text, torch.arange(1000) / 999)
    assert torch.equal(seen[0], torch.arange(1000))


def test_neighbouring_times_start_alike_and_distant_ones_do_not():
    code = time_code(96)
    assert code.square().mean().item() == pytest.approx(1, abs=0.05)
    alike = torch.nn.functional.cosine_similarity(code[:, None], code[None], dim=-1)
    assert alike.diagonal(1).min() > 0.9
    assert alike[0, 500] < 0.7
    assert torch.equal(tiny_flow().time_embed[0].weight, time_code(tiny_flow().config["d_model"]))


def test_items_of_a_batch_do_not_touch():
    flow = tiny_flow()
    packed, text, time = inputs(batch=3)
    alone = torch.cat([flow(packed[i : i + 1], text[i : i + 1], time[i : i + 1]) for i in range(3)])
    torch.testing.assert_close(flow(packed, text, time), alone, atol=1e-6, rtol=1e-5)


def test_every_token_sees_text_time_and_every_other_token():
    flow = tiny_flow().double()
    packed, text, time = (x.double() for x in inputs(batch=1))
    leaf, text = packed.clone().requires_grad_(), text.requires_grad_()
    velocity = flow(leaf, text, time)
    for token in range(12):
        by_token, by_text = torch.autograd.grad(velocity[0, token].sum(), [leaf, text], retain_graph=True)
        assert (by_token[0, :12].abs().sum(dim=-1) > 0).all()
        assert (by_text != 0).any()
    later = flow(packed, text, 1 - time)
    assert ((later - velocity)[0, :12].abs().sum(dim=-1) > 0).all()


def test_checkpointing_changes_neither_outputs_nor_gradients():
    plain, frugal = tiny_flow().train(), tiny_flow(activation_checkpointing=True).train()
    frugal.load_state_dict(plain.state_dict())
    packed, text, time = inputs()
    results = []
    for flow in (plain, frugal):
        leaf = packed.clone().requires_grad_()
        velocity = flow(leaf, text, time)
        gradients = torch.autograd.grad(velocity.square().sum(), [leaf, *flow.parameters()], allow_unused=True)
        results.append([velocity, *(g for g in gradients if g is not None)])
    for value, expected in zip(*results, strict=True):
        torch.testing.assert_close(value, expected, rtol=1e-6, atol=1e-7)


def test_only_the_queries_over_one_key_stay_without_gradient():
    flow = tiny_flow()
    flow(*inputs()).square().sum().backward()
    silent = {name for name, parameter in flow.named_parameters() if parameter.grad is None}
    assert all(".cross_attn.q_proj." in name for name in silent)


def test_config_rebuilds_the_network():
    flow = tiny_flow()
    twin = FluxFlowProcessor(**flow.config)
    twin.load_state_dict(flow.state_dict())
    arguments = inputs()
    assert torch.equal(twin(*arguments), flow(*arguments))


@torch.no_grad()
def test_blocks_start_by_passing_their_tokens_through_any_depth():
    torch.manual_seed(0)
    flow = FluxFlowProcessor(32, 8, 16, n_head=4, n_layers=10)
    states = []
    flow.transformer_blocks[-1].register_forward_hook(lambda module, inputs, outputs: states.append(outputs[0]))
    tokens = torch.randn(2, 64, 8)
    for shift in (0.0, 0.1):
        flow(pack(tokens + shift * torch.ones(8), (8, 8), 1024), torch.zeros(2, 16), torch.zeros(2))
    change = (states[1] - states[0]).norm() / states[0].norm()
    assert 0.001 < change < 1
    assert states[0].std(dim=1).mean() > 0.1
