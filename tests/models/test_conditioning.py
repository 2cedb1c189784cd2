import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fluxflow.models.conditioning import SPADE, ContextAttentionMixer, FiLM, GatedContextInjection


def normalised(x: Tensor, groups: int) -> Tensor:
    """Group normalisation from its definition."""
    grouped = x.view(len(x), groups, -1)
    mean = grouped.mean(dim=-1, keepdim=True)
    variance = (grouped - mean).square().mean(dim=-1, keepdim=True)
    return ((grouped - mean) / (variance + 1e-5).sqrt()).view_as(x)


@pytest.mark.parametrize(("channels", "groups"), [(6, 6), (64, 32)])
def test_spade_modulates_the_normalised_map(channels, groups):
    spade = SPADE(3, channels, hidden=5)
    x, context = torch.randn(2, channels, 6, 8), torch.randn(2, 3, 6, 8)
    shared = F.conv2d(context, spade.mlp_shared[0].weight, spade.mlp_shared[0].bias, padding=1).clamp(min=0)
    gamma = F.conv2d(shared, spade.mlp_gamma.weight, spade.mlp_gamma.bias, padding=1)
    beta = F.conv2d(shared, spade.mlp_beta.weight, spade.mlp_beta.bias, padding=1)
    torch.testing.assert_close(spade(x, context), normalised(x, groups) * (1 + gamma) + beta, atol=1e-5, rtol=1e-5)


def test_spade_fits_the_context_to_the_map():
    spade = SPADE(3, 6)
    x, context = torch.randn(2, 6, 8, 12), torch.randn(2, 3, 4, 6)
    fitted = F.interpolate(context, size=(8, 12), mode="bilinear", align_corners=False)
    assert torch.equal(spade(x, context), spade(x, fitted))


def test_film_scales_and_shifts_channels():
    film = FiLM(4, 3)
    x, text = torch.randn(2, 3, 5, 5), torch.randn(2, 4)
    modulation = text @ film.linear.weight.T + film.linear.bias
    gamma, beta = modulation[:, :3, None, None], modulation[:, 3:, None, None]
    torch.testing.assert_close(film(x, text), x * (1 + gamma) + beta)


def test_injection_gates_and_shifts_tokens():
    injection = GatedContextInjection(4, 3)
    x, context = torch.randn(2, 5, 3), torch.randn(2, 4)
    gate = 1 / (1 + torch.exp(-(context @ injection.gate[0].weight.T + injection.gate[0].bias)))
    shift = context @ injection.bias.weight.T + injection.bias.bias
    torch.testing.assert_close(injection(x, context), x * gate[:, None] + shift[:, None])


def test_mixer_is_self_attention_with_a_class_token():
    mixer = ContextAttentionMixer(12, n_head=3)
    for parameter in mixer.parameters():
        nn.init.normal_(parameter, std=0.3)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        projections = (mixer.q_proj, mixer.k_proj, mixer.v_proj)
        reference.in_proj_weight.copy_(torch.cat([layer.weight for layer in projections]))
        reference.in_proj_bias.copy_(torch.cat([layer.bias for layer in projections]))
        reference.out_proj.load_state_dict(mixer.out_proj.state_dict())
    x = torch.randn(2, 4, 12)
    tokens = torch.cat([mixer.cls.expand(2, 1, 12), mixer.norm_in(x)], dim=1)
    expected = mixer.norm_out(reference(tokens, tokens, tokens)[0])
    pooled, mixed = mixer(x)
    torch.testing.assert_close(pooled, expected[:, 0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mixed, expected[:, 1:], atol=1e-5, rtol=1e-5)
