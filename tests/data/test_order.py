"""Nobody sees another's sample, everybody sees all once a pass, and a cursor says where to go on."""

import itertools
from collections import Counter

import pytest

from fluxflow.data.sources.records import ALONE, Part, Place
from fluxflow.data.streaming.order import Order, Walk
from fluxflow.errors import DataError
from tests.data.sources import Keys

SIZES = {"many": (7, 5, 6, 9, 3, 8, 7), "even": (6,) * 8, "one": (29,), "few": (9, 14), "tiny": (1, 1, 1, 12)}
WHOLE = Part()
GRIDS = [(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 4)]


def walk(reader: Keys, place: Place = ALONE, cursor=None, *, part: Part = WHOLE, seed: int = 0, blocks: int = 2):
    return Walk(Order(reader, part, seed, place, blocks), cursor)


def take(walking: Walk, count: int) -> list[tuple[int, str]]:
    return [(number, f"{piece}-{index}") for number, piece, index in (walking.draw() for _ in range(count))]


def passes(walking: Walk, count: int) -> list[list[str]]:
    """The keys of the first passes, each."""
    shown: list[list[str]] = [[] for _ in range(count)]
    while True:
        number, piece, index = walking.draw()
        if number >= count:
            return shown
        shown[number].append(f"{piece}-{index}")


def places(ranks: int, workers: int) -> list[Place]:
    return [Place(rank, ranks, worker, workers) for rank in range(ranks) for worker in range(workers)]


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("grid", GRIDS, ids=str)
def test_a_pass_shows_every_sample_once_over_all_places(sizes, grid):
    shares = [passes(walk(Keys(sizes), place), 3) for place in places(*grid)]
    for number in range(3):
        shown = [share[number] for share in shares]
        assert Counter(itertools.chain(*shown)) == Counter(Keys(sizes).all())
        if sizes != SIZES["tiny"]:
            assert all(shown), "somebody starves"


def test_shares_differ_by_the_sizes_of_pieces_alone():
    shares = [len(passes(walk(Keys((6,) * 7), place), 1)[0]) for place in places(1, 3)]
    assert shares == [14, 14, 14]


def test_passes_and_seeds_differ_and_repeat():
    reader = Keys((10, 10, 10))
    first, second = passes(walk(reader), 2)
    assert passes(walk(reader), 1) == [first]
    assert len({tuple(order) for order in (first, second, passes(walk(reader, seed=1), 1)[0], reader.all())}) == 4


def test_samples_of_a_block_are_mixed_and_few_pieces_open():
    reader = Keys((20,) * 6)
    order = passes(walk(reader, blocks=3), 1)[0]
    halves = [{key.split("-")[0] for key in half} for half in (order[:60], order[60:])]
    assert all(len(half) == 3 for half in halves)
    assert not halves[0] & halves[1]
    assert len({key.split("-")[0] for key in order[:20]}) == 3
    assert reader.most <= 4


def test_parts_are_disjoint_and_complete():
    reader = Keys((60, 40))
    rest, held_out = (set(passes(walk(reader, part=Part(0.2, side)), 1)[0]) for side in (False, True))
    assert rest
    assert held_out
    assert not rest & held_out
    assert sorted(rest | held_out) == sorted(reader.all())


@pytest.mark.parametrize("sizes", SIZES.values(), ids=SIZES)
@pytest.mark.parametrize("place", [ALONE, Place(1, 2, 0, 2)], ids=["alone", "of four"])
def test_a_cursor_leads_to_the_next_sample(sizes, place):
    whole = take(walk(Keys(sizes), place), 70)
    for stop in range(0, 60):
        before = walk(Keys(sizes), place)
        take(before, stop)
        assert take(walk(Keys(sizes), place, before.cursor()), 10) == whole[stop : stop + 10]


@pytest.mark.parametrize("progress", [0.0, 0.3, 0.5, 0.99, 1.0, 2.45])
@pytest.mark.parametrize("grids", [((1, 1), (1, 4)), ((2, 2), (1, 3)), ((1, 3), (2, 4)), ((1, 2), (1, 5))], ids=str)
def test_other_places_go_on_at_the_same_fraction(progress, grids):
    reader = Keys((2,) * 200)

    def left(grid: tuple[int, int]) -> Counter[str]:
        """What is still to come of the pass."""
        found: Counter[str] = Counter()
        for place in places(*grid):
            walking = walk(reader, place, {"progress": progress})
            while True:
                number, piece, index = walking.draw()
                if number > int(progress):
                    break
                found[f"{piece}-{index}"] += 1
        return found

    there, here = left(grids[0]), left(grids[1])
    assert max(here.values(), default=1) == 1
    assert abs(sum(here.values()) - round((1 - progress % 1) * 400)) <= 8  # a sample a place
    in_work = [2 * 2 * grid[0] * grid[1] for grid in grids]  # samples of the blocks that all places have begun
    assert len(here.keys() ^ there.keys()) <= sum(in_work) + 16


def test_progress_is_what_was_shown():
    sizes = (10,) * 7
    for place in places(1, 3):
        walking = walk(Keys(sizes), place)
        for drawn in range(1, 50):
            walking.draw()
            assert walking.cursor()["progress"] == pytest.approx(drawn * 3 / 70, abs=0.08)


def test_more_places_than_samples_are_refused():
    with pytest.raises(DataError, match="no training sample for one of 20 ranks × workers"):
        walk(Keys((5, 7)), Place(19, 20)).draw()
