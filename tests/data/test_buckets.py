import math
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fluxflow.data.images.buckets import Buckets
from fluxflow.errors import ConfigError

sides = st.integers(1, 24)
ratios = st.one_of(st.none(), st.floats(1, 8))


def brute_force(side: int, multiple: int, max_ratio: float) -> set[tuple[int, int]]:
    """Of all sizes below the area, those of which no side can grow by `multiple`, the shorter one at most `side`."""
    found = set()
    for a in range(multiple, side + 1, multiple):
        b = max(b for b in range(multiple, side * side // a + 1, multiple) if a * b <= side * side)
        if b / a <= max_ratio:
            found |= {(a, b), (b, a)}
    return found


@given(sides, st.sampled_from([1, 4, 16]), ratios)
def test_buckets_are_the_largest_multiples_within_the_area(blocks, multiple, max_ratio):
    side = blocks * multiple
    sizes = Buckets(side, multiple, max_ratio).sizes
    assert (side, side) in sizes
    assert len(set(sizes)) == len(sizes)
    for height, width in sizes:
        assert height % multiple == width % multiple == 0
        assert side * side * (1 - Fraction(multiple, side)) < height * width <= side * side
        assert max(height, width) <= min(height, width) * (max_ratio or 1)
    assert set(sizes) == brute_force(side, multiple, max_ratio or 1)
    assert set(sizes) == {(width, height) for height, width in sizes}


@given(sides, ratios, st.integers(1, 5000), st.integers(1, 5000))
def test_a_picture_goes_to_the_nearest_ratio(blocks, max_ratio, width, height):
    buckets = Buckets(16 * blocks, 16, max_ratio)

    def distance(size: tuple[int, int]) -> float:
        return abs(math.log(size[0] / size[1]) - math.log(height / width))

    chosen = buckets.of(width, height)
    assert chosen in buckets.sizes
    assert distance(chosen) <= min(map(distance, buckets.sizes)) + 1e-12


def test_every_bucket_is_its_own_nearest():
    buckets = Buckets(256, 16, 3)
    assert [buckets.of(width, height) for height, width in buckets.sizes] == buckets.sizes
    assert buckets.sizes[0] == (160, 400)
    assert len(buckets.sizes) == 13


def test_without_a_ratio_all_is_square():
    assert Buckets(64, 16).sizes == Buckets(64, 16, 1).sizes == [(64, 64)]
    assert Buckets(64, 16).of(4000, 3) == (64, 64)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ((50, 16), r"data\.image_size=50 is not a multiple of 16 \(2\^model\.downscales\): take 48 or 64"),
        ((8, 16), r"data\.image_size=8 .* take 16"),
        ((0, 16), r"data\.image_size=0 .* take 16"),
        ((64, 16, 0.5), r"data\.transform\.buckets\.max_aspect=0\.5 must be a ratio from 1"),
        ((64, 16, "wide"), r"data\.transform\.buckets\.max_aspect=wide must be a ratio from 1"),
    ],
)
def test_what_cannot_work_is_refused_by_name(numbers, message):
    with pytest.raises(ConfigError, match=message):
        Buckets(*numbers)
