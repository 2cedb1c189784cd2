import pytest
import torch

from fluxflow.models.packet import add_coordinates, latent_size_of, pack, position_code, to_map, to_tokens


def test_size_token_holds_the_grid():
    tokens = torch.randn(2, 6, 5)
    packed = pack(tokens, (2, 3), max_hw=1024)
    assert torch.equal(packed[:, :-1], tokens)
    assert torch.equal(packed[:, -1], torch.tensor([2 / 1024, 3 / 1024, 0, 0, 0]).expand(2, 5))


@pytest.mark.parametrize("size", [(1, 1), (1, 7), (7, 1), (4, 6), (64, 48), (33, 17)])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_size_survives_the_packet(size, dtype):
    packed = pack(torch.zeros(3, size[0] * size[1], 4, dtype=dtype), size, max_hw=1024)
    assert latent_size_of(packed, 1024) == size


def test_packets_of_different_sizes_are_refused():
    packed = torch.cat([pack(torch.zeros(1, 6, 4), size, 1024) for size in [(2, 3), (3, 2)]])
    with pytest.raises(ValueError, match="one size"):
        latent_size_of(packed, 1024)


def test_packet_with_another_number_of_tokens_is_refused():
    with pytest.raises(ValueError, match="6 tokens"):
        latent_size_of(pack(torch.zeros(1, 6, 4), (3, 3), 1024), 1024)


def test_tokens_are_row_major():
    features = torch.arange(2 * 3 * 4 * 5.0).view(2, 3, 4, 5)
    tokens = to_tokens(features)
    for row in range(4):
        for column in range(5):
            assert torch.equal(tokens[:, row * 5 + column], features[:, :, row, column])
    assert torch.equal(to_map(tokens, (4, 5)), features)


def test_coordinates_are_column_then_row():
    x = add_coordinates(torch.zeros(2, 3, 4, 6))
    assert x.shape == (2, 5, 4, 6)
    torch.testing.assert_close(x[0, 3, 2], torch.linspace(-1, 1, 6))
    torch.testing.assert_close(x[1, 4, :, 5], torch.linspace(-1, 1, 4))


@pytest.mark.parametrize("layout", [torch.channels_last, torch.contiguous_format])
def test_coordinates_keep_the_memory_format(layout):
    x = torch.randn(2, 3, 4, 6).contiguous(memory_format=layout)
    assert add_coordinates(x).is_contiguous(memory_format=layout)
    assert torch.equal(add_coordinates(x), add_coordinates(x.contiguous()))


def test_position_code_is_the_textbook_formula():
    """PE[2i] = sin(p / 10000^(2i/d)), PE[2i + 1] = cos(…): rows in the first half of the channels, then columns."""
    code = position_code(3, 5, 8, torch.device("cpu")).double()
    for row in range(3):
        for column in range(5):
            for position, offset in ((row, 0), (column, 4)):
                for i in range(2):
                    angle = torch.tensor(position / 10000 ** (2 * i / 4), dtype=torch.float64)
                    token = code[row * 5 + column]
                    torch.testing.assert_close(token[offset + 2 * i], angle.sin(), atol=1e-6, rtol=0)
                    torch.testing.assert_close(token[offset + 2 * i + 1], angle.cos(), atol=1e-6, rtol=0)
