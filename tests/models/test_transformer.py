"""The transformer of version 1.0: attention against its formula, padding that changes nothing, equal budgets."""

import math

import pytest
import torch
from torch import Tensor, nn

from fluxflow.errors import ConfigError
from fluxflow.models import BezierTextEncoder, FluxFlowProcessor
from fluxflow.models.activations import CHOICES
from fluxflow.models.transformer import Attention, FeedForward, Modulation

SIZE = (2, 3)


@pytest.fixture
def flow() -> FluxFlowProcessor:
    """A small flow of version 1.0 in which nothing is zero any more."""
    torch.manual_seed(0)
    network = FluxFlowProcessor(16, 4, 12, n_head=2, n_layers=2, version="1.0").eval()
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.2)
    return network


def text(words: int, rows: int | None = None, seed: int = 0) -> Tensor:
    """The sentence and so many words [2, 1 + rows, 12], zero after them."""
    found = torch.zeros(2, 1 + (rows or words), 12)
    found[:, : 1 + words] = torch.randn(2, 1 + words, 12, generator=torch.Generator().manual_seed(seed))
    return found


def packed() -> Tensor:
    tokens = torch.randn(2, 7, 4, generator=torch.Generator().manual_seed(1))
    tokens[:, -1, :2] = torch.tensor([2.0, 3.0]) / 1024
    return tokens


def test_attention_is_the_softmax_of_normalised_queries_and_keys() -> None:
    torch.manual_seed(0)
    layer, x, source = Attention(8, 2).double(), torch.randn(1, 3, 8).double(), torch.randn(1, 5, 8).double()
    mask = torch.tensor([[True, False, True, True, False]])
    q = layer.to_q(x).reshape(3, 2, 4)
    k, v = layer.to_kv(source).reshape(5, 2, 2, 4).unbind(1)
    q, k = (one / (one.square().mean(-1, keepdim=True) + torch.finfo(torch.double).eps).sqrt() for one in (q, k))
    heads = []
    for head in range(2):
        scores = (q[:, head] @ k[:, head].T / math.sqrt(4)).masked_fill(~mask[0], -math.inf)
        heads.append(scores.softmax(-1) @ v[:, head])
    expected = layer.out(torch.cat(heads, -1))
    torch.testing.assert_close(layer(x, source, mask=mask)[0], expected)


@pytest.mark.parametrize("activation", CHOICES)
def test_each_activation_has_the_same_budget(activation: str) -> None:
    count = sum(parameter.numel() for parameter in FeedForward(96, activation).parameters())
    assert count == pytest.approx(8 * 96**2, rel=0.02)
    flow = FluxFlowProcessor(96, 8, 64, n_head=4, n_layers=4, version="1.0", activation=activation)
    usual = FluxFlowProcessor(96, 8, 64, n_head=4, n_layers=4, version="1.0", activation="silu")
    assert _count(flow) == pytest.approx(_count(usual), rel=0.02)


def _count(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def test_a_flow_starts_with_a_velocity_of_zero() -> None:
    network = FluxFlowProcessor(16, 4, 12, n_head=2, n_layers=2, version="1.0")
    found = network(packed(), text(3), torch.tensor([0.2, 0.7]), SIZE)
    assert torch.equal(found[:, :-1], torch.zeros(2, 6, 4))
    assert torch.equal(found[:, -1], packed()[:, -1])
    assert all(not one.any() for one in Modulation(8, 3)(torch.randn(2, 8)))


def test_padding_changes_nothing_and_the_order_of_given_words_neither(flow: FluxFlowProcessor) -> None:
    times = torch.tensor([0.2, 0.7])
    found = flow(packed(), text(3), times, SIZE)
    torch.testing.assert_close(flow(packed(), text(3, rows=8), times, SIZE), found, atol=1e-6, rtol=1e-5)
    moved = text(3)[:, [0, 3, 1, 2]]
    torch.testing.assert_close(flow(packed(), moved, times, SIZE), found, atol=1e-6, rtol=1e-5)


def test_every_word_and_the_time_reach_every_image_token(flow: FluxFlowProcessor) -> None:
    times = torch.tensor([0.2, 0.7])
    found = flow(packed(), text(3), times, SIZE)
    for row in range(4):
        other = text(3)
        other[:, row] += 1
        assert ((flow(packed(), other, times, SIZE) - found)[:, :-1].abs().amax(-1) > 1e-6).all(), row
    assert ((flow(packed(), text(3), times + 0.1, SIZE) - found)[:, :-1].abs().amax(-1) > 1e-6).all()


def test_the_size_is_read_from_the_packet(flow: FluxFlowProcessor) -> None:
    times = torch.tensor([0.2, 0.7])
    torch.testing.assert_close(flow(packed(), text(3), times), flow(packed(), text(3), times, SIZE))


def test_unknown_activations_and_those_of_other_versions_are_refused() -> None:
    with pytest.raises(ConfigError, match="choose one of bezier, silu"):
        FeedForward(8, "tanh")
    with pytest.raises(ConfigError, match=r"activation=silu is for model\.version=1\.0"):
        FluxFlowProcessor(16, 4, 12, n_head=2, n_layers=1, activation="silu")


def test_a_text_from_scratch_knows_the_order_of_words_and_no_padding() -> None:
    torch.manual_seed(0)
    encoder = BezierTextEncoder(16, vocabulary=20, heads=2)
    numbers = torch.tensor([[3, 7, 5, 0, 0], [5, 7, 3, 0, 0]])
    found = encoder.output_layer(numbers)
    assert found.shape == (2, 6, 16)
    assert not found[:, 4:].any()
    torch.testing.assert_close(encoder.output_layer(numbers[:, :3]), found[:, :4], atol=1e-6, rtol=1e-5)
    torch.testing.assert_close(found[:, 0], found[:, 1:4].mean(1))
    assert (found[0, 0] - found[1, 0]).abs().max() > 1e-3
