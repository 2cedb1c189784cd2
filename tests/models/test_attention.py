import torch
from torch import Tensor, nn

from fluxflow.models.attention import CrossAttention, SelfAttention, attend, rotary_2d, rotate, split_heads

CPU = torch.device("cpu")


def softmax_attention(q: Tensor, k: Tensor, v: Tensor, heads: int) -> Tensor:
    """softmax(q·kᵀ/√d)·v head by head (Vaswani et al., 2017, equation 1), on a batch of one."""
    outputs = []
    for q_h, k_h, v_h in zip(*(x[0].chunk(heads, dim=-1) for x in (q, k, v)), strict=True):
        weights = (q_h @ k_h.T / q_h.shape[-1] ** 0.5).exp()
        outputs.append(weights / weights.sum(dim=-1, keepdim=True) @ v_h)
    return torch.cat(outputs, dim=-1)[None]


def test_attend_is_softmax_attention_of_each_head():
    q, k, v = torch.randn(1, 5, 12).double(), torch.randn(1, 7, 12).double(), torch.randn(1, 7, 12).double()
    torch.testing.assert_close(attend(*(split_heads(x, 1, 3)[0] for x in (q, k, v))), softmax_attention(q, k, v, 3))


def test_parts_and_heads_lie_side_by_side():
    x = torch.arange(2 * 5 * 24).view(2, 5, 24)
    parts = split_heads(x, 2, 3)
    assert parts.shape == (2, 2, 3, 5, 4)
    assert torch.equal(parts[1, :, 2], x[..., 20:24])


def test_rotate_multiplies_complex_channels():
    """Channels (i, i + dim/2) are one complex number, turned by its angle."""
    cos, sin = rotary_2d(3, 4, 8, CPU)
    x = torch.randn(2, 12, 8)
    turned = torch.complex(x[..., :4], x[..., 4:]) * torch.complex(cos[..., :4], sin[..., 4:])
    torch.testing.assert_close(rotate(x, cos, sin), torch.cat([turned.real, turned.imag], dim=-1))
    torch.testing.assert_close(cos**2 + sin**2, torch.ones_like(cos))


def test_rotary_products_depend_on_the_offset_in_both_directions():
    cos, sin = rotary_2d(5, 6, 8, CPU)
    q, k = (rotate(x.expand(30, 8), cos, sin).view(5, 6, 8) for x in torch.randn(2, 8))
    products = torch.einsum("hwd,yxd->hwyx", q, k)
    torch.testing.assert_close(products[:-1, :, :-1], products[1:, :, 1:], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(products[:, :-1, :, :-1], products[:, 1:, :, 1:], atol=1e-5, rtol=1e-5)
    by_row, by_column = products[0, 0, :, 0], products[0, 0, 0, :]
    assert len(by_row.unique()) == 5
    assert len(by_column.unique()) == 6
    assert float((by_row - by_column[:5]).abs().max()) > 1e-2


def test_row_turns_the_first_half_of_the_pairs_and_column_the_second():
    cos, sin = (x.view(3, 4, 8)[..., 4:] for x in rotary_2d(3, 4, 8, CPU))
    for x in (cos, sin):
        assert torch.equal(x[:, :, :2], x[:, :1, :2].expand(3, 4, 2))
        assert torch.equal(x[:, :, 2:], x[:1, :, 2:].expand(3, 4, 2))
    torch.testing.assert_close(cos[2, 0, 0], torch.tensor(2.0).cos())
    torch.testing.assert_close(sin[0, 3, 2], torch.tensor(3.0).sin())


def test_self_attention_is_torchs_where_nothing_turns():
    ours = SelfAttention(12, 3)
    reference = nn.MultiheadAttention(12, 3, batch_first=True)
    with torch.no_grad():
        reference.in_proj_weight.copy_(torch.cat([ours.q_proj.weight, ours.kv_proj.weight]))
        reference.in_proj_bias.copy_(torch.cat([ours.q_proj.bias, ours.kv_proj.bias]))
        reference.out_proj.load_state_dict(ours.out_proj.state_dict())
    x = torch.randn(2, 6, 12)
    still = torch.ones(6, 4), torch.zeros(6, 4)
    torch.testing.assert_close(ours(x, still), reference(x, x, x)[0], atol=1e-6, rtol=1e-5)


def test_cross_attention_over_one_token_needs_no_queries():
    cross = CrossAttention(12)
    x, text = torch.randn(2, 6, 12), torch.randn(2, 1, 12)
    k, v = cross.kv_proj(text).chunk(2, dim=-1)
    expected = cross.out_proj(attend(*(split_heads(part, 1, 3)[0] for part in (cross.q_proj(x), k, v))))
    torch.testing.assert_close(cross(text).expand(2, 6, 12), expected, atol=1e-6, rtol=1e-5)
