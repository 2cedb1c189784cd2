import pytest
import torch

from fluxflow.kernels.conv import for_convolutions, to_signed


class OnCuda(torch.Tensor):
    is_cuda = True


@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(("kind", "fastest"), [(torch.Tensor, torch.contiguous_format), (OnCuda, torch.channels_last)])
def test_maps_lie_as_the_device_wants_them(kind, fastest, layout):
    maps = torch.zeros(2, 3, 4, 5, dtype=torch.uint8).contiguous(memory_format=layout).as_subclass(kind)
    assert for_convolutions(maps).is_contiguous(memory_format=fastest)
    assert to_signed(maps).is_contiguous(memory_format=fastest)


def test_pictures_are_signed():
    image = torch.tensor([0, 51, 255], dtype=torch.uint8).view(1, 3, 1, 1)
    torch.testing.assert_close(to_signed(image).flatten(), torch.tensor([-1, -0.6, 1]))
