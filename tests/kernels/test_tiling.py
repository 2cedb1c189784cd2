import pytest
import torch

from fluxflow.kernels import tiling


def test_large_maps_and_many_channels_pay():
    def decoder(channels: int, side: int) -> tuple[bool, bool]:
        up = tiling.transposed((1, channels, side, side), 5 * channels, 16, 7)
        same = tiling.same((1, channels, 2 * side, 2 * side), 5 * channels, 5, 2)
        return up is not None, same is not None

    assert decoder(128, 128) == (True, True)
    assert decoder(128, 4) == decoder(2, 128) == (False, False)


def test_larger_maps_take_larger_tiles():
    tiles = [tiling.best_tile(1, (128, 640), (side, side), 5, 25, False) for side in (4, 32, 128)]
    assert tiles == [None, *sorted(tiles[1:])]
    assert len(set(tiles)) == 3


def test_against_a_direct_convolution_in_bfloat16_it_pays_later():
    sides = range(4, 100, 4)
    single, half = ([tiling.same((1, 64, side, side), 320, 5, 2, kind) for side in sides] for kind in (False, True))
    assert [how is None for how in single].index(False) < [how is None for how in half].index(False)


def test_with_cached_kernel_spectra_it_pays_earlier():
    once, kept = (tiling.same((2, 256, 16, 16), 256, 3, 1, kept=kept) for kept in (False, True))
    assert once is None
    assert kept is not None


def test_a_convolution_that_does_not_double_the_size_has_no_tiling():
    assert tiling.transposed((1, 128, 64, 64), 640, 16, 5) is None


@pytest.mark.parametrize("chunk", [1, 100_000, 10**9])
def test_chunks_hold_each_output_and_patch_once(chunk, monkeypatch):
    monkeypatch.setattr(tiling, "CHUNK", chunk)
    for layer in (tiling.same((2, 96, 64, 64), 50, 5, 2), tiling.transposed((2, 96, 32, 32), 50, 16, 7)):
        tiles = [where for _, of_patches in layer.chunks() for where in of_patches]
        places = torch.cat([(where.outer[:, None] + where.inner).flatten() for where in tiles])
        assert len(places.unique()) == len(places) == 2 * 50 * layer.covered[0] * layer.covered[1] // layer.tile**2
